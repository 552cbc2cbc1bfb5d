"""Seconds and peak memory from event files to the CSR that training takes; the tables of docs/data.md, "Size".

make bench

Each row is a process of its own (`load.py FOLDER`, `load.py FOLDER JOB`). Peak is what the load adds to its anonymous
memory: VmHWM at the end, less RssFile then (the pages of shared libraries, which come with the first use of each),
less RssAnon after the imports. Its divisor, the CSR, is data, indices and indptr.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from nightrank.config.events import WeighingConfig
from nightrank.data.events import event_files, read_events
from nightrank.data.interactions import interactions_of

USERS, ITEMS, SEED = 200_000, 50_000, 1
EVENTS = (1_000_000, 5_000_000, 25_000_000)
OTHERS_EVENTS = 5_000_000
TYPES = {"View": 1, "AddToCart": 2, "ViewCart": 3, "StartCheckout": 4, "Purchase": 5}
SHOP = {
    "columns": {"time": "timestamp", "weight": "weight", "type": "event_type"},
    "type_weights": TYPES,
    "half_life_days": 30,
}
JOBS = {
    "plain": {"columns": {"time": "timestamp"}},
    "shop": SHOP,
    "frequent": {**SHOP, "min_events_per_user": 5, "min_events_per_item": 5},
}
HEADER = "events | pairs | CSR, MB | seconds | peak, MB | peak / CSR | seconds for a million"


def main() -> None:
    """One table by number of events, and one by what they are written in and weighed by; or one row for a folder."""
    if len(sys.argv) > 1:
        print(_row(*sys.argv[1:]))
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    print(
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, commit {commit.stdout.strip() or '?'}, "
        f"{USERS} users, {ITEMS} items, seed {SEED}, integer ids and times"
    )
    print(f"| {HEADER} |\n|{'---|' * (HEADER.count('|') + 1)}")
    for events in EVENTS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {_measured(_made(Path(folder), events))} |", flush=True)
    print(f"\n| files | {HEADER} |\n|{'---|' * (HEADER.count('|') + 2)}")
    with tempfile.TemporaryDirectory() as folder:
        made = _made(Path(folder), OTHERS_EVENTS)
        for name, write, job in OTHERS:
            copy = Path(folder) / write.__name__
            if not copy.exists():
                copy.mkdir()
                for file in sorted(made.iterdir()):
                    write(file, copy)
            print(f"| {name} | {_measured(copy, job)} |", flush=True)


def _row(folder: str, job: str = "plain") -> str:
    """Loads in this process, which has to be a fresh one."""
    rules = WeighingConfig.model_validate(JOBS[job])
    before, started = _kilobytes("RssAnon"), time.perf_counter()
    found = interactions_of(read_events(event_files(folder), **rules.columns.model_dump()), rules)
    seconds = time.perf_counter() - started
    peak = (_kilobytes("VmHWM") - _kilobytes("RssFile") - before) * 1024
    matrix, events = found.user_items, found.counts.rows
    csr = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    return (
        f"{events:,} | {matrix.nnz:,} | {csr / 1e6:.0f} | {seconds:.1f} | {peak / 1e6:.0f} | {peak / csr:.1f} | "
        f"{seconds / events * 1e6:.2f}"
    )


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise SystemExit(f"/proc/self/status has no {name}: this benchmark needs Linux")
    return int(found[1])


def _made(folder: Path, events: int) -> Path:
    """The folder of the event files of `data synth scale`."""
    options = f"--users {USERS} --items {ITEMS} --events {events} --seed {SEED} --out {folder}/made".split()
    program = "from nightrank.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", program, "data", "synth", "scale", *options], check=True, capture_output=True
    )
    return folder / "made" / "events"


def _measured(folder: Path, job: str = "plain") -> str:
    """The row of a folder, from a process of its own."""
    run = [sys.executable, __file__, str(folder), job]
    return subprocess.run(run, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _with_text_ids(file: Path, folder: Path) -> None:
    """Ids such as user-000000000012345."""
    table = pq.read_table(file)
    for name in ("user_id", "item_id"):
        digits = pc.utf8_lpad(table[name].cast(pa.string()), width=15, padding="0")
        texts = pc.binary_join_element_wise(name.removesuffix("_id"), digits, "-")
        table = table.set_column(table.column_names.index(name), name, texts)
    pq.write_table(table, folder / file.name, row_group_size=131_072)


def _as_shop(file: Path, folder: Path) -> None:
    """With one of five types, and a weight of a quarter to four."""
    table = pq.read_table(file)
    rng = np.random.default_rng(SEED)
    types = np.array(list(TYPES))[rng.choice(5, len(table), p=[0.86, 0.07, 0.04, 0.02, 0.01])]
    table = table.append_column("event_type", pa.array(types))
    table = table.append_column("weight", pa.array(rng.integers(1, 17, len(table)) / 4))
    pq.write_table(table, folder / file.name, row_group_size=131_072)


def _as_csv_gz(file: Path, folder: Path) -> None:
    with pa.CompressedOutputStream(str(folder / f"{file.stem}.csv.gz"), "gzip") as stream:
        pacsv.write_csv(pq.read_table(file), stream)


OTHERS = (
    ("Parquet, text ids", _with_text_ids, "plain"),
    ("`.csv.gz`, integer ids", _as_csv_gz, "plain"),
    ("Parquet, a shop's job", _as_shop, "shop"),
    ("Parquet, a shop's job, 5 events at least", _as_shop, "frequent"),
)

if __name__ == "__main__":
    main()
