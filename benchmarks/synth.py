"""Seconds, peak memory and file sizes of `nightrank data synth scale` by number of events; the table of docs/data.md.

make bench
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

USERS, ITEMS, SEED = 200_000, 50_000, 1
EVENTS = (1_000_000, 10_000_000, 25_000_000)


def main() -> None:
    """One process for each size, so that each peak is its own."""
    print(f"{USERS} users, {ITEMS} items, rank 16, seed {SEED}, {len(os.sched_getaffinity(0))} CPUs")
    print("| events | seconds | peak memory, MB | files, MB |")
    print("|---|---|---|---|")
    for events in EVENTS:
        with tempfile.TemporaryDirectory() as folder:
            sizes = (
                f"--users {USERS} --items {ITEMS} --events {events} --seed {SEED} --out {folder}/made".split()
            )
            command = [
                sys.executable,
                "-c",
                "from nightrank.cli import main; main()",
                "data",
                "synth",
                "scale",
            ]
            started = time.perf_counter()
            made = subprocess.Popen([*command, *sizes], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(made.pid, 0)
            seconds = time.perf_counter() - started
            if status:
                raise SystemExit(f"data synth scale ended with status {status}")
            files = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
            print(
                f"| {events:,} | {seconds:.1f} | {usage.ru_maxrss / 1e3:.0f} | {files / 1e6:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
