"""Publish, activate, verify, list: the manifest is written last, then CURRENT moves by compare-and-swap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NoReturn

from nightrank.errors import ReleaseError, StoreConflict, StoreUnreachable
from nightrank.release.manifest import CURRENT, RELEASE_ID, Manifest, pointer, read_manifest, release_key
from nightrank.release.store import Store

PREVIOUS = "PREVIOUS"  # what was in service before CURRENT: never pruned, so that a rollback finds it


def write_release(store: Store, manifest: Manifest) -> None:
    """Verify every file against the manifest, then write the manifest: from here on the release exists."""
    problems = list(problems_of(store, manifest))
    if problems:
        raise ReleaseError(f"release {manifest.release} is not published: {'; '.join(problems[:5])}")
    store.put_if_match(
        release_key(manifest.release, "manifest.json"),
        manifest.model_dump_json(indent=1).encode() + b"\n",
        None,
    )


def move_current(store: Store, release_id: str, *, expected: str | None) -> None:
    """Point CURRENT at a release if it still names `expected`; StoreConflict where somebody moved it.

    PREVIOUS names the old one before CURRENT moves, and loses what it named until then after that: killed anywhere,
    it names the release to go back to. Raises ReleaseError where the new one was removed meanwhile; CURRENT is put
    back.
    """
    found, tag = pointer(store)
    if found == release_id:
        return
    if found != expected:
        raise StoreConflict(
            f"CURRENT names {found}, expected {expected}: it was moved in between. Release {release_id} is "
            f"complete but not in service; `nightrank releases activate {release_id}` puts it there"
        )
    older, older_tag = before_current(store)
    if found is not None:
        lines = "".join(f"{one}\n" for one in dict.fromkeys([found, *older]))
        store.put_if_match(PREVIOUS, lines.encode(), older_tag)
    store.put_if_match(CURRENT, f"{release_id}\n".encode(), tag)
    if store.read(release_key(release_id, "manifest.json")) is None:
        _put_back(store, release_id, before=found)
    lines_now, tag_now = before_current(store)
    if len(lines_now) > 1 and lines_now[0] == found:
        with contextlib.suppress(StoreConflict):  # CURRENT is being moved again
            store.put_if_match(PREVIOUS, f"{found}\n".encode(), tag_now)


def _put_back(store: Store, release_id: str, *, before: str | None) -> NoReturn:
    """CURRENT as it was, unless somebody moved it again."""
    found, tag = pointer(store)
    if found == release_id and before is not None:
        store.put_if_match(CURRENT, f"{before}\n".encode(), tag)
    elif found == release_id:
        store.delete(CURRENT)
    raise ReleaseError(
        f"release {release_id} was removed while it was put in service, so {before or 'none'} is in service as "
        "before; `nightrank releases list` shows what is there"
    )


def before_current(store: Store) -> tuple[list[str], str | None]:
    """The lines of PREVIOUS, and its tag: the release in service before; older ones only while CURRENT moves."""
    found = store.read(PREVIOUS)
    return ([], None) if found is None else (found.data.decode(errors="replace").split(), found.tag)


def activate(store: Store, release_id: str) -> str | None:
    """Verify a release and put it in service; returns the id that was in service before."""
    before, _ = pointer(store)
    verify(store, release_id)
    move_current(store, release_id, expected=before)
    return before


def verify(store: Store, release_id: str) -> Manifest:
    """Re-read every file against the manifest; ReleaseError names all that is wrong."""
    manifest = read_manifest(store, release_id)
    problems = list(problems_of(store, manifest))
    if problems:
        listed = "\n  ".join(problems)
        raise ReleaseError(
            f"release {release_id} is damaged:\n  {listed}\n"
            "put another release in service with `nightrank releases activate ID`; to have this one again, remove "
            "its folder from the store and run its night again"
        )
    return manifest


def problems_of(store: Store, manifest: Manifest) -> Iterator[str]:
    """One line for every file that is missing, differs or does not belong. StoreUnreachable is no such problem."""
    folder = release_key(manifest.release)
    for name, expected in manifest.files.items():
        try:
            found = store.record(folder, name)
        except StoreUnreachable:
            raise
        except ReleaseError as error:
            yield f"{name}: {error}"
            continue
        if found != expected:
            yield f"{name}: found {found.bytes} bytes with sha256 {found.sha256[:12]}, " + (
                f"the manifest says {expected.bytes} with {expected.sha256[:12]}"
            )
    for name in store.names(folder):
        if name != "manifest.json" and name not in manifest.files:
            yield f"{name}: not in the manifest"


def published(store: Store) -> list[str]:
    """The ids of all releases that have a manifest, oldest first."""
    ids = [name for name in store.children("releases") if RELEASE_ID.fullmatch(name)]
    return [one for one in ids if _has_manifest(store, one)]


def _has_manifest(store: Store, release_id: str) -> bool:
    """One that is no file counts: whoever reads it is told, and nobody else is stopped."""
    try:
        return store.sizes(release_key(release_id), ["manifest.json"]) != [None]
    except StoreUnreachable:
        raise
    except ReleaseError:
        return True


def catalogue(store: Store) -> tuple[list[Manifest], dict[str, str]]:
    """All published releases, oldest first, and those whose manifest cannot be trusted with the reason."""
    manifests, broken = [], {}
    for release_id in published(store):
        try:
            manifests.append(read_manifest(store, release_id))
        except ReleaseError as error:
            broken[release_id] = str(error)
    return manifests, broken
