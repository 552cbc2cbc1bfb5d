"""The publish stage: the remaining files, the structure gate, the manifest, and last the CURRENT pointer."""

from __future__ import annotations

import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import implicit
import numba
import numpy as np
import pyarrow as pa
import ray
import scipy

import nightrank
from nightrank.batch.inputs import load_items, refuse_changed
from nightrank.batch.run import Run
from nightrank.batch.units import RECOMMENDATIONS, all_units, record_name, unpacked, written
from nightrank.data.ids import STRING, Ids
from nightrank.errors import GateRefused, ReleaseError
from nightrank.quality.gates import structure_gate
from nightrank.release.files import save_array
from nightrank.release.manifest import FORMAT_VERSION, EventRules, Manifest, current, release_key
from nightrank.release.model_files import ModelFiles, open_model
from nightrank.release.popular import popular_batch
from nightrank.release.publish import before_current, move_current, published, write_release
from nightrank.release.records import FileRecord
from nightrank.release.tables import items_schema, popular_schema, write_table

log = logging.getLogger("nightrank.publish")


def publish(run: Run, *, still: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Complete the release, judge its structure, write its manifest and put it in service.

    A run that was published stays so: a rerun moves nothing, also not back after somebody activated another
    release. Raises GateRefused before the manifest is written, StoreConflict where CURRENT was moved since
    the run began; the release then exists but is not in service.
    still: raises where the run's lease is lost; asked before anything is removed, made visible or moved.
    """
    done = run.stage("publish")
    if done is not None and run.record.release in published(run.store):
        return done
    run.finished("score")
    with run.recording("publish") as outcome:
        if run.record.release not in published(run.store):
            manifest = _assemble(run, still)
            still()
            write_release(run.store, manifest)
        before = None if run.record.in_service is None else run.record.in_service.release
        outcome["before"] = before
        if _was_replaced(run):
            log.info("release %s was in service and was replaced since; that stays", run.record.release)
            return outcome
        still()
        move_current(run.store, run.record.release, expected=before)
        log.info("release %s is in service", run.record.release)
    return outcome


def _was_replaced(run: Run) -> bool:
    """Whether this release was in service and somebody took it out: a rerun must not undo a rollback."""
    return before_current(run.store)[0][:1] == [run.record.release]


def _assemble(run: Run, still: Callable[[], None]) -> Manifest:
    refuse_changed(run.job, run.inputs)
    model = open_model(run.store, run.name("model"))
    units = list(all_units(model))
    files: dict[str, FileRecord] = {}
    recommended = np.zeros(model.card.n_items, dtype=bool)
    scored = Counter(users=0, rows=0, empty_users=0)
    for unit in units:
        record = written(run.store, unit, run=run.name(""), card=model.card)
        if record is None:
            raise ReleaseError(
                f"run {run.key} has no {record_name(unit)} of its model; run the score stage again"
            )
        files |= {name: FileRecord(**value) for name, value in record["files"].items()}
        if unit["table"] == RECOMMENDATIONS:
            recommended |= unpacked(record["recommended"], n_items=model.card.n_items)
            scored.update({name: record[name] for name in scored})
    decision = structure_gate(
        users=scored["users"],
        expected_users=model.card.n_users,
        rows=scored["rows"],
        empty_users=scored["empty_users"],
        recommended=recommended,
        has_events=model.popularity > 0,
        min_coverage=run.job.gate.min_coverage,
    ).as_dict()
    if not decision["passed"]:
        raise GateRefused(
            f"the structure gate refused release {run.record.release}: {'; '.join(decision['problems'])}. "
            "What is in service stays"
        )
    still()
    _drop_strangers(run, set(files))
    files |= _copy_model(run, model) | _write_items(run, model)
    trained = run.finished("train")
    return Manifest(
        format_version=FORMAT_VERSION,
        release=run.record.release,
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        run_key=run.key,
        family=model.card.family,
        params=model.card.params,
        label=model.card.label,
        seed=model.card.seed,
        model_hash=model.card.model_hash,
        data_fingerprint=run.record.data_fingerprint,
        config_hash=run.record.config_hash,
        exclude_seen=run.job.score.exclude_seen,
        k=run.job.score.k,
        similar_items_k=run.job.score.similar_items_k,
        events=EventRules(
            combine=run.job.combines([model.card.family])[0], type_weights=run.job.events.type_weights
        ),
        metrics={trained["quality"]["metric"]: trained["quality"]["candidate"]},
        gates={"quality": trained["quality"], "structure": decision},
        counts={
            "users": model.card.n_users,
            "items": model.card.n_items,
            "pairs": model.card.n_pairs,
            "recommendations": scored["rows"],
            "buckets": model.card.n_buckets,
        },
        versions=_versions(),
        files=dict(sorted(files.items())),
    )


def _drop_strangers(run: Run, known: set[str]) -> None:
    """Remove what a killed writer left in a release folder that nobody can see yet."""
    folder = release_key(run.record.release)
    for name in run.store.names(folder):
        if name not in known:
            run.store.delete(f"{folder}/{name}")


def _copy_model(run: Run, model: ModelFiles) -> dict[str, FileRecord]:
    """The arrays as train recorded them; whether they still are is found when the release is verified."""
    for name in [*model.card.files, "model.json"]:
        run.store.copy(run.name(f"model/{name}"), release_key(run.record.release, f"arrays/{name}"))
    card = run.store.record(release_key(run.record.release), "arrays/model.json")
    return {"arrays/model.json": card} | {f"arrays/{name}": one for name, one in model.card.files.items()}


def _write_items(run: Run, model: ModelFiles) -> dict[str, FileRecord]:
    """popular.parquet always; items.parquet and the titles of the service where the job has an item table."""
    metadata = {"nightrank.run_key": run.key, "nightrank.model_hash": model.card.model_hash}

    def write(name: str, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> FileRecord:
        key = release_key(run.record.release, name)
        return write_table(run.store, key, batches, schema=schema, metadata=metadata)

    items = load_items(run.job, run.inputs, item_ids=model.item_ids)
    schema = popular_schema(model.card.item_id_type)
    batch = popular_batch(model.item_ids, model.popularity, items=items, k=run.job.score.k, schema=schema)
    records = {"popular.parquet": write("popular.parquet", [batch], schema)}
    if items is None:
        return records
    names = ["item_id", *(name for name in ("title", "categories") if name in items.column_names)]
    table = items.rename_columns({"item": "item_id"}).select(names).sort_by("item_id").combine_chunks()
    schema = items_schema(model.card.item_id_type, table.schema)
    records["items.parquet"] = write("items.parquet", table.cast(schema).to_batches(), schema)
    if "title" in names:
        rows = model.item_ids.rows_of(items["item"])
        titles = np.full(model.card.n_items, "", dtype=object)
        titles[rows[rows >= 0]] = items["title"].fill_null("").to_numpy()[rows >= 0]
        for stem, array in Ids(pa.array(titles, STRING)).arrays("titles").items():
            name = f"arrays/{stem}.npy"
            records[name] = save_array(run.store, release_key(run.record.release, name), array)
    return records


def _versions() -> dict[str, str]:
    return {
        "nightrank": nightrank.__version__,
        "python": platform.python_version(),
        "ray": ray.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pyarrow": pa.__version__,
        "implicit": implicit.__version__,
        "numba": numba.__version__,  # compiles fm, hybrid, ials and the engine
    }


def in_service(run: Run) -> str | None:
    """The release that CURRENT names now."""
    return current(run.store)[0]
