"""The score stage: Ray Data sends buckets through a pool of actors, each writing whole files.

The unit of work is one bucket of users, or one part of the catalogue for similar items. A unit's files are put
in place in one step each, its record after them; a rerun skips units that are recorded and whose files are
intact. The driver sees records only, never rows.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext

from nightrank.batch.records import BucketRecord, read_json
from nightrank.batch.run import Run
from nightrank.cluster.session import options, threads, translated
from nightrank.config.cluster import ActorSpec, ActorTable
from nightrank.errors import ClusterError, NightrankError, ReleaseError
from nightrank.ranking import TopK
from nightrank.ranking.ranker import Ranker, chunks
from nightrank.ranking.similar import SimilarItems
from nightrank.release.files import part_name, save_array
from nightrank.release.manifest import release_key
from nightrank.release.model_files import ModelFiles, open_model
from nightrank.release.reader import item_parts, list_array_names
from nightrank.release.store import Store, open_store
from nightrank.release.tables import list_rows, recommendations_schema, similar_items_schema, write_table

log = logging.getLogger("nightrank.score")

PROGRESS_S = 2.0
RECOMMENDATIONS, SIMILAR = "recommendations", "similar_items"
Unit = dict[str, Any]


def score(run: Run, actors: ActorTable) -> dict[str, Any]:
    """Write every unit that is not there yet into the run's release folder; return counts."""
    run.finished("train")
    with run.recording("score") as outcome:
        units = list(all_units(open_model(run.store, run.name("model"))))
        missing = missing_units(run)
        if len(missing) < len(units):
            log.info("%d of %d parts are there already", len(units) - len(missing), len(units))
        if missing:
            _score(run, missing, spec=actors.scorer)
        records = [
            run.get_json(record_name(unit), shape=BucketRecord)
            for unit in units
            if unit["table"] == RECOMMENDATIONS
        ]
        for count in ("users", "rows", "empty_users"):
            outcome[count] = sum(record[count] for record in records)
    return outcome


def missing_units(run: Run) -> list[Unit]:
    """The units without a record, or whose files are not what their record says; reads them all."""
    model = open_model(run.store, run.name("model"))
    given = {"run": run.name(""), "release": run.record.release, "model_hash": model.card.model_hash}
    return [unit for unit in all_units(model) if intact(run.store, unit, **given) is None]


def all_units(model: ModelFiles) -> Iterator[Unit]:
    """Every bucket of users and every part of the items that holds anything, with its bounds."""
    bounds = {RECOMMENDATIONS: model.bucket_offsets, SIMILAR: item_parts(model.card.n_items)}
    for table, offsets in bounds.items():
        for part in range(len(offsets) - 1):
            yield {
                "table": table,
                "part": part,
                "n_parts": len(offsets) - 1,
                "start": int(offsets[part]),
                "stop": int(offsets[part + 1]),
            }


def record_name(unit: Unit) -> str:
    """The key of a unit's record in its run."""
    return f"buckets/{unit['table']}-{part_name(unit['part'], unit['n_parts'])}.json"


def unit_files(unit: Unit) -> tuple[str, str, str]:
    """The files of a unit in the release: Parquet, item rows, scores."""
    name = part_name(unit["part"], unit["n_parts"])
    return (
        f"{unit['table']}/part-{name}.parquet",
        *list_array_names(unit["table"], unit["part"], unit["n_parts"]),
    )


def packed(lists: Sequence[NDArray[np.int32]], *, n_items: int) -> str:
    """Which items stand in any of the lists (absent rows are -1): one bit an item, base64."""
    found = np.zeros(n_items, dtype=bool)
    for rows in lists:
        found[rows[rows >= 0]] = True
    return base64.b64encode(np.packbits(found).tobytes()).decode()


def unpacked(text: str, *, n_items: int) -> NDArray[np.bool_]:
    """What `packed` says, bool (n_items,)."""
    bits = np.frombuffer(base64.b64decode(text), dtype=np.uint8)
    return np.unpackbits(bits, count=n_items).astype(bool)


def intact(store: Store, unit: Unit, *, run: str, release: str, model_hash: str) -> dict[str, Any] | None:
    """The record of a unit whose files are all what it says, None where it has to be written; reads them all.

    run: the key of the run's folder, with a slash at its end.
    """
    record: dict[str, Any] | None = read_json(store, f"{run}{record_name(unit)}", shape=BucketRecord)
    if record is None or record["model_hash"] != model_hash:
        return None
    folder, files = release_key(release), record["files"]
    try:
        if store.sizes(folder, list(files)) != [one["bytes"] for one in files.values()]:
            return None
        same = all(store.record(folder, name).model_dump() == expected for name, expected in files.items())
    except ReleaseError:
        return None
    return record if same else None


def _score(run: Run, units: list[Unit], *, spec: ActorSpec) -> None:
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # our own lines say what it would
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    most = min(spec.max_count, len(units))
    # All at once: Ray Data would start the others only when the first has been at work for a while.
    pool = ActorPoolStrategy(min_size=min(spec.min_count, most), max_size=most, initial_size=most)
    results = ray.data.from_items(units, override_num_blocks=len(units)).map_batches(
        ScoreUnits,
        batch_size=1,
        compute=pool,
        fn_constructor_kwargs={
            "store": run.store.url,
            "run": run.name(""),
            "run_key": run.key,
            "release": run.record.release,
            "settings": run.job.score.model_dump(),
            "metric": f"{run.job.objective.metric}@{run.job.objective.k}",
            "n_threads": threads(spec),
        },
        **options(spec),
    )
    with translated("scoring"):
        _follow(results.iter_rows(), units)


def _follow(results: Iterable[dict[str, Any]], units: list[Unit]) -> None:
    """A line every two seconds, and at the end; the estimate goes by users and items, not by parts."""
    total = sum(unit["stop"] - unit["start"] for unit in units)
    lists, users, started, told = 0, 0, time.monotonic(), 0.0
    for done, result in enumerate(results, start=1):
        if result["problem"]:
            raise ClusterError(
                f"scoring stopped: {result['problem']}; mend that and run the same command again, it goes on with "
                "the parts that are missing"
            )
        users, lists = users + result["users"], lists + result["lists"]
        elapsed = time.monotonic() - started
        if elapsed - told < PROGRESS_S and done < len(units):
            continue
        told = elapsed
        left = elapsed / max(1, lists) * (total - lists)
        log.info(
            "part %d/%d, %d users, %.0f lists/s, %.0f s left", done, len(units), users, lists / elapsed, left
        )


class ScoreUnits:
    """One actor of the pool: the model by memory map, the index prepared once."""

    def __init__(
        self,
        *,
        store: str,
        run: str,
        run_key: str,
        release: str,
        settings: dict[str, Any],
        metric: str,
        n_threads: int,
    ) -> None:
        self.store, self.run, self.release = open_store(store), run, release
        self.model = open_model(self.store, f"{run}model")
        self.settings, self.n_threads, self.checked = settings, n_threads, False
        card = self.model.card
        self.metadata = {
            "nightrank.run_key": run_key,
            "nightrank.model_hash": card.model_hash,
            "nightrank.family": card.family,
            "nightrank.metric": metric,
        }

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the units of a batch (one) and say how many users they held, or what went wrong."""
        keys = ("table", "part", "n_parts", "start", "stop")
        units = [
            dict(zip(keys, values, strict=True)) for values in zip(*(batch[key] for key in keys), strict=True)
        ]
        lists = [unit["stop"] - unit["start"] for unit in units]
        users, problem = [0] * len(units), ""
        try:
            if not self.checked:
                self.model.check()
                self.checked = True
            users = [self.write(unit) for unit in units]
        except (NightrankError, OSError) as error:  # as data: Ray would bury it in its own stack
            problem = str(error)
        return {
            "users": np.array(users),
            "lists": np.array(lists),
            "problem": np.array([problem] * len(units)),
        }

    def write(self, unit: Unit) -> int:
        """Write a unit's files, then its record; returns the number of users in it.

        A unit that is whole is left alone: Ray asks again for one whose scorer died with the record in place.
        """
        unit = {key: value if isinstance(value, str) else int(value) for key, value in unit.items()}
        given = {"run": self.run, "release": self.release, "model_hash": self.model.card.model_hash}
        done = intact(self.store, unit, **given)
        if done is not None:
            return int(done["users"])
        lists = list(self._lists(unit))
        table, items, scores = (release_key(self.release, name) for name in unit_files(unit))
        files = {unit_files(unit)[0]: self._write_table(table, unit, lists)}
        for key, name, arrays in (
            (items, unit_files(unit)[1], [topk.item_rows for _, topk in lists]),
            (scores, unit_files(unit)[2], [topk.scores for _, topk in lists]),
        ):
            files[name] = save_array(self.store, key, np.concatenate(arrays)).model_dump()
        counts = np.concatenate([topk.counts for _, topk in lists])
        users = int(unit["stop"] - unit["start"]) if unit["table"] == RECOMMENDATIONS else 0
        record = {
            "model_hash": self.model.card.model_hash,
            "files": files,
            "users": users,
            "rows": int(counts.sum()),
            "empty_users": self._unduly_empty(unit, counts),
            "recommended": packed([topk.item_rows for _, topk in lists], n_items=self.model.card.n_items),
        }
        self.store.put(
            f"{self.run}{record_name(unit)}", json.dumps(record, indent=1, sort_keys=True).encode()
        )
        return users

    def _write_table(self, key: str, unit: Unit, lists: list[tuple[int, TopK]]) -> dict[str, Any]:
        card = self.model.card
        recommendations = unit["table"] == RECOMMENDATIONS
        owners = self.model.user_ids if recommendations else self.model.item_ids
        schema = (
            recommendations_schema(card.user_id_type, card.item_id_type)
            if recommendations
            else similar_items_schema(card.item_id_type)
        )
        batches = (
            list_rows(
                topk,
                owners=owners.take(np.arange(start, start + len(topk.counts))),
                item_ids=self.model.item_ids,
                schema=schema,
            )
            for start, topk in lists
        )
        return write_table(self.store, key, batches, schema=schema, metadata=self.metadata).model_dump()

    def _lists(self, unit: Unit) -> Iterator[tuple[int, TopK]]:
        rows = slice(unit["start"], unit["stop"])
        if unit["table"] == RECOMMENDATIONS:
            return chunks(self._recommender.rank, rows, self.settings["k"])
        return chunks(self._similar.rank, rows, self.settings["similar_items_k"])

    def _unduly_empty(self, unit: Unit, counts: np.ndarray[Any, Any]) -> int:
        """Users with an empty list although there is something that they have not seen."""
        if unit["table"] != RECOMMENDATIONS or not self.settings["exclude_seen"]:
            return int((counts == 0).sum()) if unit["table"] == RECOMMENDATIONS else 0
        seen = np.diff(self.model.seen.indptr[unit["start"] : unit["stop"] + 1])
        return int(((counts == 0) & (seen < self.model.card.n_items)).sum())

    @cached_property
    def _recommender(self) -> Ranker:
        return Ranker(
            index=self.model.item_index(threads=self.n_threads),
            user_vectors=self.model.user_vectors,
            seen=self.model.seen if self.settings["exclude_seen"] else None,
        )

    @cached_property
    def _similar(self) -> SimilarItems:
        return SimilarItems(self.model.item_vectors, threads=self.n_threads)
