"""One night's work: its folder in the store, what was fixed at its start, and which stages are done.

The run key is a hash of the inputs' content and of the settings without locations, so the same work finds
its own leftovers and never another's. What a run takes from the store (the recipe in service, its own release
id) is written to run.json by the first to start it; everybody else reads it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from nightrank.batch.inputs import Inputs
from nightrank.batch.records import STAGE_RECORDS, read_json
from nightrank.config.job import JobConfig
from nightrank.config.rules import Rule, parse_rule
from nightrank.errors import DataError, ReleaseError, StoreConflict
from nightrank.release.manifest import current, read_manifest
from nightrank.release.store import Store

STAGES = ("sweep", "train", "score", "publish")
LATEST = "runs/LATEST"
RUN_KEY = re.compile("[0-9a-f]{16}")


class Recipe(BaseModel):
    """What can be fitted again: a family and its parameters. release: where it was in service, and there
    label: the rule of the classes that it learned, such as weight>=4; None for what learns none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    family: str
    params: dict[str, int | float | str]
    release: str | None = None
    label: str | None = None

    @property
    def rule(self) -> Rule | None:
        """`label`, ready to apply."""
        return None if self.label is None else parse_rule(self.label)

    def as_line(self) -> bytes:
        """For a file of its own."""
        return self.model_dump_json().encode() + b"\n"


class RunRecord(BaseModel):
    """run.json, written once."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    run_key: str
    release: str
    created: str
    in_service: Recipe | None
    last_winner: Recipe | None = None
    data_fingerprint: str
    config_hash: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A started run: its store, record and settings."""

    store: Store
    record: RunRecord
    job: JobConfig
    inputs: Inputs

    @property
    def key(self) -> str:
        """The run key, 16 hexadecimal digits."""
        return self.record.run_key

    def name(self, name: str) -> str:
        """The store key of something in the run's folder."""
        return f"runs/{self.key}/{name}"

    def put_json(self, name: str, value: Any) -> None:
        """Write a small record in one step."""
        self.store.put(self.name(name), json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")

    def get_json(self, name: str, *, shape: type[BaseModel] | None = None) -> Any:
        """A small record, or None where there is none. Raises ReleaseError where it is not JSON of that shape."""
        return read_json(self.store, self.name(name), shape=shape)

    def stage(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage left behind, None where it is not finished."""
        found: dict[str, Any] | None = self.get_json(f"stages/{stage}.json", shape=STAGE_RECORDS[stage])
        return found

    def finished(self, stage: str) -> dict[str, Any]:
        """Like `stage`, but a stage that must have run before."""
        found = self.stage(stage)
        if found is None:
            raise DataError(
                f"run {self.key} has not finished its {stage} stage; run `nightrank {stage} --config JOB` first"
            )
        return found

    def refuse_gone(self) -> None:
        """DataError where the run was removed, or begun anew, before its lease was held."""
        found = self.store.read(self.name("run.json"))
        if found is None or _read_record(self.store, self.key) != self.record:
            raise DataError(
                f"run {self.key} was removed from store {self.store.url} since this command began, by an erasure or "
                "a pruning; run the command again"
            )

    @contextlib.contextmanager
    def recording(self, stage: str) -> Iterator[dict[str, Any]]:
        """Collects what a stage leaves behind, its seconds and when it ended; written when the block ends well."""
        started = time.monotonic()
        outcome: dict[str, Any] = {}
        yield outcome
        outcome["seconds"] = round(time.monotonic() - started, 2)
        outcome["ended"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self.put_json(f"stages/{stage}.json", outcome)


def start_run(store: Store, job: JobConfig, inputs: Inputs) -> Run:
    """Find or begin the run of these inputs and settings."""
    config = job.without_locations()
    key = run_key(job, inputs)
    record = RunRecord(
        run_key=key,
        release=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{key[:12]}",
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        in_service=_in_service(store),
        last_winner=_last_winner(store, winner_key(job)),
        data_fingerprint=inputs.fingerprint,
        config_hash=_hash(config),
        config=config,
    )
    with contextlib.suppress(StoreConflict):  # it was begun before, or by somebody else just now
        store.put_if_match(f"runs/{key}/run.json", record.model_dump_json(indent=1).encode() + b"\n", None)
    store.put(LATEST, f"{key}\n".encode())
    return Run(store=store, record=_read_record(store, key), job=job, inputs=inputs)


def run_key(job: JobConfig, inputs: Inputs) -> str:
    """The key of these inputs and settings: 16 hexadecimal digits."""
    return _hash({"data": inputs.fingerprint, "config": job.without_locations()})[:16]


def has_run(store: Store, job: JobConfig, inputs: Inputs) -> bool:
    """Was the run of these inputs and settings begun in this store?"""
    return store.read(f"runs/{run_key(job, inputs)}/run.json") is not None


def chosen_run(store: Store, job: JobConfig, inputs: Inputs, *, key: str) -> Run:
    """The run of that key, or the one started last (`latest`); it must be of the same inputs and settings.

    Raises DataError where there is none, or where the files or settings are no longer those it began with.
    """
    if key == "latest":
        found = store.read(LATEST)
        if found is None:
            raise DataError(f"store {store.url} has no run yet; leave out --run to start one")
        key = found.data.decode(errors="replace").strip()
        if not RUN_KEY.fullmatch(key):
            raise ReleaseError(
                f"{LATEST} in store {store.url} holds {key[:40]!r}, expected a run key (16 hexadecimal "
                "digits); leave out --run, which writes it anew, or name a run"
            )
    record = _read_record(store, key)
    for what, now, then in (
        ("files", inputs.fingerprint, record.data_fingerprint),
        ("settings", _hash(job.without_locations()), record.config_hash),
    ):
        if now != then:
            raise DataError(
                f"run {key} began with other {what}: their hash was {then[:12]} and is {now[:12]} now; "
                "restore them, or leave out --run to start a new run"
            )
    return Run(store=store, record=record, job=job, inputs=inputs)


def _in_service(store: Store) -> Recipe | None:
    release_id, _ = current(store)
    if release_id is None:
        return None
    try:
        manifest = read_manifest(store, release_id)
    except ReleaseError as error:
        raise ReleaseError(
            f"the release in service cannot be read, so nothing can be compared with it: {error}. Put another in "
            "service with `nightrank releases activate ID`, or delete CURRENT in the store to begin afresh"
        ) from None
    return Recipe(family=manifest.family, params=manifest.params, release=release_id, label=manifest.label)


def winner_key(job: JobConfig) -> str:
    """Where the store keeps what the last sweep over these events, for this objective, chose."""
    about = {"events": job.events.dataset or job.events.path, "objective": job.objective.model_dump()}
    return f"winners/{_hash(about)[:12]}.json"


def _last_winner(store: Store, key: str) -> Recipe | None:
    found = store.read(key)
    try:
        return None if found is None else Recipe.model_validate_json(found.data)
    except ValidationError:
        raise ReleaseError(
            f"{key} in store {store.url} is no recipe; delete it, and the search begins without one"
        ) from None


def _read_record(store: Store, key: str) -> RunRecord:
    found = store.read(f"runs/{key}/run.json")
    if found is None:
        runs = [name for name in store.children("runs") if name != "LATEST"]
        raise DataError(f"store {store.url} has no run {key}; it has {', '.join(runs) or 'none'}")
    try:
        return RunRecord.model_validate_json(found.data)
    except ValidationError as error:
        raise ReleaseError(f"run.json of run {key} is broken: {error.errors()[0]['msg']}") from None


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
