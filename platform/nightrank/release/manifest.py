"""manifest.json: written last, so a release without one does not exist for anybody."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nightrank.errors import ReleaseError
from nightrank.release.model_card import check_rule
from nightrank.release.records import FileRecord
from nightrank.release.store import Store, checked_key

# 4 added label, and bounds, label and user_features of the card, 3 events, 2 erased_users and replaces; older ones
# have none of these.
FORMAT_VERSION = 4
READABLE = (1, 2, 3, 4)
CURRENT = "CURRENT"
COUNTS = ("users", "items", "pairs", "recommendations", "buckets")
RELEASE_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{12}")


class EventRules(BaseModel):
    """How the events behind a release became weights, for events that a request brings.

    combine: a user's repeated events on an item. type_weights: by event type, empty where events have no type.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    combine: str = Field(pattern="^(sum|max|last)$")
    type_weights: dict[str, float]


class Manifest(BaseModel):
    """What a release is, where it came from, and every file of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format_version: int
    release: str
    created: str
    run_key: str
    family: str
    params: dict[str, int | float | str]
    label: str | None = None
    seed: int
    model_hash: str
    data_fingerprint: str
    config_hash: str
    exclude_seen: bool
    k: int = Field(ge=1, le=2**31 - 1)
    similar_items_k: int = Field(ge=0, le=2**31 - 1)
    metrics: dict[str, float]
    gates: dict[str, dict[str, Any]]
    counts: dict[str, int]
    replaces: str | None = None
    erased_users: int = 0
    events: EventRules | None = None
    versions: dict[str, str]
    files: dict[str, FileRecord]

    @field_validator("label")
    @classmethod
    def _is_rule(cls, label: str | None) -> str | None:
        return check_rule(label)

    @field_validator("counts")
    @classmethod
    def _counted(cls, counts: dict[str, int]) -> dict[str, int]:
        missing = [name for name in COUNTS if counts.get(name, -1) < 0]
        if missing:
            raise ValueError(
                f"no number of {', '.join(missing)}; expected {', '.join(COUNTS)}, 0 or more each"
            )
        return counts

    @field_validator("files")
    @classmethod
    def _inside(cls, files: dict[str, FileRecord]) -> dict[str, FileRecord]:
        for name in files:
            try:
                checked_key(name)
            except ReleaseError as error:
                raise ValueError(str(error)) from None
        return files


def release_key(release_id: str, name: str = "") -> str:
    """The store key of a release's folder or of a file in it."""
    if not RELEASE_ID.fullmatch(release_id):
        raise ReleaseError(
            f"{release_id!r} is not a release id; expected the form 20261121T031500Z-0123456789ab, "
            "as `nightrank releases list` prints them"
        )
    return f"releases/{release_id}/{name}".rstrip("/")


def read_manifest(store: Store, release_id: str) -> Manifest:
    """The manifest of a release; ReleaseError where there is none, or one that cannot be trusted."""
    found = store.read(release_key(release_id, "manifest.json"))
    if found is None:
        raise ReleaseError(
            f"release {release_id} does not exist in store {store.url}: it has no manifest; "
            "`nightrank releases list` shows what is there"
        )
    try:
        manifest = Manifest.model_validate_json(found.data)
    except ValidationError as error:
        version = re.search(rb'"format_version"\s*:\s*([0-9]{1,9})\b', found.data)
        if version is not None and int(version[1]) not in READABLE:
            raise _other_version(release_id, int(version[1])) from None
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the top"
        raise ReleaseError(
            f"manifest of release {release_id} is broken at {where}: {problem['msg']}"
        ) from None
    if manifest.format_version not in READABLE:
        raise _other_version(release_id, manifest.format_version)
    if manifest.release != release_id:
        raise ReleaseError(
            f"manifest in the folder of release {release_id} belongs to {manifest.release}; "
            "the folder was copied or renamed: publish again instead"
        )
    return manifest


def _other_version(release_id: str, found: int) -> ReleaseError:
    return ReleaseError(
        f"release {release_id} has format version {found}; this nightrank reads versions 1 to {FORMAT_VERSION}: "
        "use the version of nightrank that wrote it, or publish again"
    )


def pointer(store: Store) -> tuple[str | None, str | None]:
    """(text, tag) of CURRENT as it stands, whatever it says; (None, None) where nothing was ever published."""
    found = store.read(CURRENT)
    return (None, None) if found is None else (found.data.decode(errors="replace").strip(), found.tag)


def current(store: Store) -> tuple[str | None, str | None]:
    """(release id, tag) of the CURRENT pointer; (None, None) where nothing was ever published.

    Raises ReleaseError where it holds no release id.
    """
    release_id, tag = pointer(store)
    if release_id is not None and not RELEASE_ID.fullmatch(release_id):
        raise ReleaseError(
            f"CURRENT of store {store.url} holds {release_id!r}, which is not a release id; put a release in service "
            "with `nightrank releases activate ID`"
        )
    return release_id, tag
