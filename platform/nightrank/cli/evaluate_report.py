"""What `nightrank evaluate` gives back: a table of users, one JSON object, or lines to read."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from nightrank.data.splits import Split
from nightrank.errors import SettingsError
from nightrank.quality.evaluation import Evaluation
from nightrank.quality.names import MetricSpec
from nightrank.release.store import replacing

TABLES = (".parquet", ".csv")
KIB = 1024


def check_table(path: Path, metrics: tuple[MetricSpec, ...]) -> None:
    """Raise SettingsError where `write_users` could not write this: better now than after the fit."""
    if path.suffix not in TABLES:
        raise SettingsError(f"--per-user {path}: expected a name that ends in {' or '.join(TABLES)}")
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"--per-user {path}: there is no folder {path.parent}; make it first")
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise SettingsError(
            f"--per-user {path}: expected a file in a folder that can be written; name another"
        )
    if not any(spec.has_users for spec in metrics):
        names = ", ".join(map(str, metrics))
        raise SettingsError(
            f"--per-user {path}: {names} have no value of one user; ask for another metric too"
        )


def write_users(path: Path, split: Split, found: Evaluation) -> None:
    """A row for each user with a value: the id, and the metrics that one user has; empty where not defined."""
    is_counted = np.any([~np.isnan(values) for values in found.per_user.values()], axis=0)
    rows = np.flatnonzero(is_counted)
    columns = {name: pa.array(values[rows], from_pandas=True) for name, values in found.per_user.items()}
    table = pa.table({"user_id": split.train.user_ids.take(rows), **columns})
    with replacing(path) as temporary:
        (pq.write_table if path.suffix == ".parquet" else pacsv.write_csv)(table, temporary)


def report_of(
    family: str, params: Mapping[str, Any], *, found: Evaluation, split: Split, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Plain values, for JSON; NaN is null."""
    plain = found.as_dict()
    unit = 1 if sys.platform == "darwin" else KIB  # of ru_maxrss
    return {
        "model": family,
        "params": dict(params),
        "metrics": plain["metrics"],
        "users": {
            "counted": found.n_counted,
            "unknown": split.n_unknown_users,
            "without_truth": found.n_without_truth,
        },
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def lines_of(report: Mapping[str, Any]) -> Iterator[str]:
    """The same for people."""
    params = ", ".join(f"{name} {value}" for name, value in report["params"].items())
    users, seconds = report["users"], report["seconds"]
    yield f"{report['model']}  {params}".rstrip()
    yield (
        f"{users['counted']:,} users counted, {users['unknown']:,} not in train, "
        f"{users['without_truth']:,} without a held-out item"
    )
    width = max(map(len, report["metrics"]))
    for name, one in report["metrics"].items():
        value = "not defined" if one["value"] is None else f"{one['value']:.4f}"
        interval = "" if one["low"] is None else f"  ({one['low']:.4f} to {one['high']:.4f})"
        yield f"{name:<{width}}  {value}{interval}"
    memory = report["peak_memory_bytes"] / 2**20
    yield f"fit {seconds['fit']:.1f} s, rank {seconds['rank']:.1f} s, peak memory {memory:,.0f} MiB"
