"""A scorer: one actor of the pool, which ranks units and writes their files.

It imports no more than that takes: every scorer of a night waits for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from nightrank.batch.units import RECOMMENDATIONS, VERSIONS, Unit, intact, packed, record_name, unit_files
from nightrank.errors import NightrankError
from nightrank.ranking import TopK
from nightrank.ranking.ranker import Ranker, chunks
from nightrank.ranking.similar import SimilarItems
from nightrank.release.files import save_array
from nightrank.release.manifest import release_key
from nightrank.release.model_files import open_model
from nightrank.release.store import open_store
from nightrank.release.tables import list_rows, recommendations_schema, similar_items_schema, write_table


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
        done = intact(self.store, unit, run=self.run, release=self.release, card=self.model.card)
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
            "versions": VERSIONS,
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
