"""Publish, activate, verify, list: the manifest is written last, then CURRENT moves by compare-and-swap."""

from __future__ import annotations

from collections.abc import Iterator

from nightrank.errors import ReleaseError, StoreConflict
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
    """Point CURRENT at a release if it still names `expected`; StoreConflict where somebody moved it."""
    found, tag = pointer(store)
    if found == release_id:
        return
    if found != expected:
        raise StoreConflict(
            f"CURRENT names {found}, expected {expected}: it was moved in between. Release {release_id} is "
            f"complete but not in service; `nightrank releases activate {release_id}` puts it there"
        )
    if found is not None:
        store.put(PREVIOUS, f"{found}\n".encode())
    store.put_if_match(CURRENT, f"{release_id}\n".encode(), tag)


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
    """One line for every file that is missing, differs or does not belong."""
    folder = release_key(manifest.release)
    for name, expected in manifest.files.items():
        try:
            found = store.record(folder, name)
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
    return [one for one in ids if store.sizes(release_key(one), ["manifest.json"]) != [None]]


def catalogue(store: Store) -> tuple[list[Manifest], dict[str, str]]:
    """All published releases, oldest first, and those whose manifest cannot be trusted with the reason."""
    manifests, broken = [], {}
    for release_id in published(store):
        try:
            manifests.append(read_manifest(store, release_id))
        except ReleaseError as error:
            broken[release_id] = str(error)
    return manifests, broken
