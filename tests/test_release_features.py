"""Format version 4: bounds, label and vectors of features, refused where they do not fit, kept by erase."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golden_releases import FOLDER
from harm import refusal
from nightrank.release import open_release, open_store
from nightrank.release.erase import erase
from nightrank.release.publish import verify
from nightrank.release.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A copy of the golden store whose model has three features of users."""
    shutil.copytree(FOLDER / "v4" / "features" / "store", tmp_path / "store")
    return open_store(str(tmp_path / "store"))


def rewritten(store: Store, name: str, content: Callable[[bytes], bytes]) -> None:
    """Change a file of the release, and its record in the manifest with it."""
    folder = next((Path(store.url) / "releases").iterdir())
    path, manifest = folder / name, json.loads((folder / "manifest.json").read_bytes())
    raw = content(path.read_bytes())
    path.write_bytes(raw)
    manifest["files"][name] |= {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def with_card(store: Store, **changes: Any) -> None:
    rewritten(store, "arrays/model.json", lambda raw: json.dumps(json.loads(raw) | changes).encode())


AGE = {"name": "age", "values": None, "mean": 40.0, "scale": 12.5}
GENDER = {"name": "gender", "values": ["f", "m"], "mean": 0.0, "scale": 1.0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"user_features": [AGE]}, r"user_feature_vectors.npy holds .*\(3, 4\); expected .*\(1, 4\)"),
        ({"user_features": [AGE, GENDER, AGE | {"name": "x"}]}, r"expected .*\(4, 4\)"),
        ({"user_features": [AGE, AGE]}, "user_features.*a column stands there twice"),
        ({"user_features": [AGE | {"scale": 0.0}, GENDER]}, "scale.*greater than 0"),
        ({"user_features": [AGE, GENDER | {"values": ["f", "f"]}]}, "a category stands there twice"),
        ({"user_features": [AGE | {"mean": float("nan")}, GENDER]}, "mean.*finite"),
        ({"user_features": [{"name": "age"}]}, "user_features"),
        ({"bounds": [5.0, 1.0]}, "bounds.*expected the lower one first"),
        ({"bounds": [1.0]}, "bounds"),
        ({"bounds": [1.0, float("inf")]}, "bounds.*finite"),
        ({"label": "weight >= 4.0"}, 'label.*expected the rule as "weight>=4"'),
        ({"label": "weight>=4 or so"}, "label.*expected weight, one of"),
    ],
    ids=str,
)
def test_features_that_do_not_fit_are_refused_when_opened(
    store: Store, changes: dict[str, Any], said: str
) -> None:
    """A card from a store is not taken on trust: columns that are not those of the vectors never answer anybody."""
    with_card(store, **changes)
    assert re.search(said, refusal(lambda: open_release(store)), re.DOTALL)


def test_vectors_of_another_width_are_refused(store: Store) -> None:
    """A sum of vectors that are longer than the items' would fail in a request; it fails at opening."""
    path = next(Path(store.url).rglob("user_feature_vectors.npy"))

    def wider(raw: bytes) -> bytes:
        np.save(path, np.zeros((3, 5), np.float32))
        return path.read_bytes()

    rewritten(store, "arrays/user_feature_vectors.npy", wider)
    assert "user_feature_vectors.npy holds float32 of shape (3, 5)" in refusal(lambda: open_release(store))


def test_a_person_is_erased_from_a_release_with_features(store: Store) -> None:
    """The successor answers for features as before, without the person: vectors of features are nobody's rows."""
    before = open_release(store)
    person = before.model.user_ids[3]
    vectors, columns = before.model.user_features.vectors.copy(), before.model.card.user_features
    receipt = erase(store, [str(person)], handover_s=0.0)
    after = open_release(store)
    verify(store, after.id)
    assert after.id == receipt["releases"][0]["successor"]
    assert after.model.user_ids.find(person) is None
    assert (after.model.card.user_features, after.model.card.bounds) == (columns, (1.0, 5.0))
    np.testing.assert_array_equal(after.model.user_features.vectors, vectors)
    assert any("features" in text for text in receipt["not_done"])


def test_an_erasure_keeps_the_rule_of_the_classes(tmp_path: Path) -> None:
    """What a probability is of stays known, in the successor's manifest as on its card."""
    shutil.copytree(FOLDER / "v4" / "classes" / "store", tmp_path / "store")
    store = open_store(str(tmp_path / "store"))
    person = open_release(store).model.user_ids[3]
    erase(store, [str(person)], handover_s=0.0)
    after = open_release(store)
    assert (after.manifest.label, after.model.card.label) == ("weight>=4", "weight>=4")
    manifest = next(path for path in Path(store.url).rglob("manifest.json") if after.id in str(path))
    manifest.write_text(manifest.read_text().replace('"weight>=4"', '"weight>>4"'))
    assert "is broken at label" in refusal(lambda: open_release(store))
