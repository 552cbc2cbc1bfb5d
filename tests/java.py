"""Whether Spark has the Java that it needs; run as a script it ends with what is missing, if anything is."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping

OLDEST = 17


def problem(environment: Mapping[str, str]) -> str | None:
    """None, or what was found in place of a Java that Spark runs on, and the cure. JAVA_HOME goes before PATH."""
    cure = f"Spark needs Java {OLDEST} or newer: {{}}; install openjdk-{OLDEST}-jre-headless"
    home = environment.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin" if home else environment.get("PATH"))
    if java is None:
        return cure.format(f"JAVA_HOME is {home}, where no bin/java is" if home else "no java is on the path")
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None or int(version[1]) < OLDEST:
        return cure.format(f"{java} says {said.splitlines()[0] if said.strip() else 'nothing'}")
    return None


if __name__ == "__main__":
    sys.exit(problem(os.environ))
