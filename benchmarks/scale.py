"""A whole night at size, from a folder of events to a release in service: seconds and memory of each stage.

    python benchmarks/scale.py --users 162000 --items 62000 --events 25000000

The events are those of `nightrank data synth scale`. Every stage is the command that a user types, a process of its
own on one local cluster with this machine's CPUs: the trainer gets all of them, the scorers one each. Memory is the
highest sum of what is private to the driver and the cluster's workers (`Anonymous` of /proc/PID/smaps_rollup, read
four times a second), and the highest sum with what they share counted once (`Pss`: mapped files are in it as far as
they are in memory). Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from nightrank.cluster.local import local_cluster

HEADER = "| stage | seconds | private, MiB | with mapped files, MiB |"
PAUSE_S = 0.25
COMMAND = (sys.executable, "-c", "from nightrank.cli import main; main()")
REPO = Path(__file__).resolve().parent.parent


def job(folder: Path, options: argparse.Namespace) -> Path:
    """The job file: a named model, so that the night is the same everywhere."""
    content = {
        "store": str(folder / "store"),
        "events": {"path": str(folder / "made" / "events"), "columns": {"time": "timestamp"}},
        "train": {"model": options.model, "params": json.loads(options.params)},
        "score": {"k": options.k, "similar_items_k": 50},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(content))
    return folder / "job.yaml"


def actors(folder: Path, n_cpus: int) -> Path:
    """cluster.yaml for a machine that does nothing else at night."""
    content = yaml.safe_load((REPO / "cluster.yaml").read_text())
    kinds = content["metadata"]["actors"]
    kinds["trainer"]["num_cpus"] = n_cpus
    kinds["scorer"] |= {"num_cpus": 0.9, "min_count": n_cpus, "max_count": n_cpus}
    (folder / "cluster.yaml").write_text(yaml.safe_dump(content))
    return folder / "cluster.yaml"


def memory(pids: list[int]) -> tuple[int, int]:
    """(private bytes, bytes with shared pages counted once) of some processes."""
    private = shared = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Anonymous:"):
                    private += int(line.split()[1]) * 1024
                elif line.startswith("Pss:"):
                    shared += int(line.split()[1]) * 1024
    return private, shared


def workers(tmpdir: str) -> list[int]:
    """The cluster's processes that run our code."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.info["cmdline"] or ())
            if title.startswith("ray::") and process.environ().get("RAY_TMPDIR") == tmpdir:
                found.append(process.pid)
    return found


def measured(arguments: list[str], env: Mapping[str, str], log: Path) -> tuple[float, int, int, str]:
    """Seconds, the two peaks, and what the command printed."""
    started, peaks, looked, pids = time.monotonic(), (0, 0), 0.0, []
    with (
        log.open("ab") as file,
        subprocess.Popen(
            [*COMMAND, *arguments], env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=file, text=True
        ) as driver,
    ):
        while driver.poll() is None:
            if time.monotonic() - looked > 1.0:
                pids, looked = workers(env.get("RAY_TMPDIR", "-")), time.monotonic()
            now = memory([driver.pid, *pids])
            peaks = (max(peaks[0], now[0]), max(peaks[1], now[1]))
            time.sleep(PAUSE_S)
        said = driver.stdout.read() if driver.stdout is not None else ""
    if driver.returncode:
        raise SystemExit(f"{arguments[0]} ended with {driver.returncode}:\n{log.read_text()[-3000:]}")
    return time.monotonic() - started, *peaks, said


def stages(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """(what it is, the command) in order."""
    sizes = [("--users", options.users), ("--items", options.items), ("--events", options.events)]
    synth = [part for name, value in sizes for part in (name, str(value))]
    yield (
        "make the events",
        ["data", "synth", "scale", *synth, "--seed", "0", "--out", str(folder / "made")],
    )
    config = ["--config", str(job(folder, options))]
    yield "ingest alone (data check)", ["data", "check", *config, "--json"]
    config += ["--cluster", str(actors(folder, options.cpus))]
    for stage in ("train", "score", "publish"):
        yield stage, [stage, *config]
    yield "verify", ["releases", "verify", "--store", str(folder / "store")]


def main() -> None:
    """A row for each stage, and the sum of the night."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=162_000)
    parser.add_argument("--items", type=int, default=62_000)
    parser.add_argument("--events", type=int, default=25_000_000)
    parser.add_argument("--model", default="ials")
    parser.add_argument("--params", default='{"factors": 128, "epochs": 8}')
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--cpus", type=int, default=os.cpu_count())
    parser.add_argument(
        "--folder", type=Path, help="kept, for a look at the release; default: a temporary one"
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        cluster = stack.enter_context(local_cluster(home=folder / "home", num_cpus=options.cpus))
        print(
            f"{options.users:,} users x {options.items:,} items x {options.events:,} events, {options.model} "
            f"{options.params}, k={options.k}, {options.cpus} CPUs\n\n{HEADER}\n|{'---|' * 4}"
        )
        total, most = 0.0, (0, 0)
        for name, arguments in stages(folder, options):
            seconds, private, shared, said = measured(arguments, cluster.env, folder / "log.txt")
            print(f"| {name} | {seconds:.0f} | {private >> 20:,} | {shared >> 20:,} |", flush=True)
            if name in ("train", "score", "publish"):
                total, most = total + seconds, (max(most[0], private), max(most[1], shared))
                last: dict[str, Any] = json.loads(said.splitlines()[-1])
        print(f"| the night: train, score, publish | {total:.0f} | {most[0] >> 20:,} | {most[1] >> 20:,} |")
        print(f"\n{json.dumps(last['counts'])}\n{json.dumps(last['metrics'])}\n{json.dumps(last['seconds'])}")


if __name__ == "__main__":
    main()
