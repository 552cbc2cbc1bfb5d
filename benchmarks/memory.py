"""Does the score stage take more memory for more users? Peaks of driver and scorers at 10k, 100k and 1M users.

    make bench
    python benchmarks/memory.py --users 10000,100000,1000000

The driver is a process of its own, so what makes the data does not count, and joins a local cluster as a night does;
the scorers are the actors of the shipped cluster.yaml. Memory is `Anonymous` of /proc/PID/smaps_rollup: private pages
that no file backs. The model, which all scorers map from the same files, is not in it, nor is Ray's object store. It
is read about every 50 ms, so a shorter peak can be missed. Processes peak at different moments: the ratio is of the
sum of each one's own peak, and what was there at once stands beside it. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from made_runs import machine, made_run, run_in, score_users

from nightrank.cluster.local import applied_env, local_cluster
from nightrank.cluster.session import joined
from nightrank.config.cluster import load_cluster

HEADER = "| users | buckets | stage, s | driver, MiB | scorers, MiB | sum, MiB | against 100k users | at once, MiB |"
PAUSE_S = 0.05
SCORER = "ScoreUnits"  # Ray names a worker after what it runs
AGAINST = 100_000


@dataclass
class Peaks:
    """The highest figures so far, in bytes; `own` by process."""

    at_once: int = 0
    own: dict[int, int] = field(default_factory=dict)

    def note(self, pids: list[int]) -> None:
        """Read every process once."""
        found = {}
        for pid in pids:
            with contextlib.suppress(OSError):  # it has just ended
                found[pid] = anonymous_bytes(pid)
        self.at_once = max(self.at_once, sum(found.values()))
        for pid, size in found.items():
            self.own[pid] = max(self.own.get(pid, 0), size)


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file backs."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Anonymous:"))
    return int(line.split()[1]) * 1024


def scorers(address: str) -> list[int]:
    """The scorers of this cluster: its raylet, which started them, was told the address."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(SCORER in word for word in process.cmdline()):
                parent = process.parent()
                if parent is not None and any(address in word for word in parent.cmdline()):
                    found.append(process.pid)
    return found


def measured(folder: Path, options: argparse.Namespace, *, address: str) -> tuple[float, int, Peaks]:
    """Seconds of the stage, the driver's pid, and the peaks while it ran."""
    command = [sys.executable, __file__, "--drive", str(folder), "--k", str(options.k)]
    peaks, pids, looked = Peaks(), [], 0.0
    with subprocess.Popen(
        [*command, "--seed", str(options.seed)], stdout=subprocess.PIPE, text=True
    ) as driver:
        while driver.poll() is None:
            if time.monotonic() - looked > 0.3:
                pids, looked = scorers(address), time.monotonic()
            peaks.note([driver.pid, *pids])
            time.sleep(PAUSE_S)
        said = driver.stdout.read() if driver.stdout is not None else ""
    if driver.returncode:
        raise SystemExit(f"the driver ended with {driver.returncode}")
    return float(said.split()[-1]), driver.pid, peaks


def drive(folder: Path, *, k: int, seed: int) -> None:
    """The driver: joins, scores, says how long that took."""
    with joined():
        print(score_users(run_in(folder, k=k, seed=seed), load_cluster()))


def main() -> None:
    """A row for each number of users."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", default="10000,100000,1000000")
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--factors", type=int, default=32)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--seen", type=int, default=20, help="items that each user has seen")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", help="be the driver of the run in this folder")
    options = parser.parse_args()
    if options.drive is not None:
        drive(Path(options.drive), k=options.k, seed=options.seed)
        return
    sizes = {name: getattr(options, name) for name in ("items", "factors", "k", "seen", "seed")}
    print(f"{machine()}, " + ", ".join(f"{name} {value}" for name, value in sizes.items()))
    base = None
    print(f"\n{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}")
    with (
        tempfile.TemporaryDirectory() as name,
        local_cluster(home=Path(name) / "home") as cluster,
        applied_env(cluster),
    ):
        for users in sorted(int(number) for number in options.users.split(",")):
            run = made_run(Path(name) / str(users), users=users, **sizes)
            seconds, driver, peaks = measured(Path(name) / str(users), options, address=cluster.address)
            buckets = len(run.store.children(run.name("buckets")))
            whole = sum(peaks.own.values())
            base = whole if users == AGAINST else base
            figures = (
                f"{mib(peaks.own.pop(driver))} | {', '.join(map(mib, peaks.own.values()))} | {mib(whole)}"
            )
            ratio = "" if base is None else f"{whole / base:.2f}x"
            print(
                f"| {users:,} | {buckets} | {seconds:.1f} | {figures} | {ratio} | {mib(peaks.at_once)} |",
                flush=True,
            )


def mib(size_bytes: int) -> str:
    """In MiB."""
    return f"{size_bytes / 2**20:.0f}"


if __name__ == "__main__":
    main()
