"""Golden releases: one small store of every format version, kept for ever, and what it answers.

They stand in tests/golden/v<format version>/<name>/: the store, and answers.json beside it. A change of the
format makes a new one, once, with the code that writes the new format, and never touches the old ones:

    PYTHONPATH=tests python -c "import golden_releases; golden_releases.make()"

`make` refuses to write over a golden that is there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import made
from nightrank.batch.publish import publish
from nightrank.data.features import FeatureColumn
from nightrank.data.ids import Id
from nightrank.data.interactions import Interactions
from nightrank.models import FactorModel
from nightrank.models.factor_model import FeatureVectors
from nightrank.ranking.ranker import Ranker
from nightrank.release import Release, open_release, open_store
from nightrank.release.manifest import FORMAT_VERSION

FOLDER = Path(__file__).resolve().parent / "golden"
N_USERS, N_ITEMS = 12, 8
SCORE = {"k": 5, "buckets": 2, "similar_items_k": 3}
COLUMNS = (FeatureColumn("age", None, mean=40.0, scale=12.5), FeatureColumn("gender", ("f", "m")))
ASKED = {"age": 65, "gender": "m", "town": "Bonn"}


def goldens() -> list[Path]:
    """The folder of every golden, oldest version first."""
    return sorted(FOLDER.glob("v*/*"), key=lambda path: (int(path.parent.name[1:]), path.name))


def version_of(golden: Path) -> int:
    """The format version that a golden was written in."""
    return int(golden.parent.name[1:])


def names_of(version: int) -> tuple[str, ...]:
    """The goldens that a format version has: the rule of classes and vectors of features came with version 4."""
    return ("classes", "features", "ints", "texts") if version >= 4 else ("ints", "texts")


def make() -> None:
    """Write the goldens of the format version that this code writes: int ids, texts with items, features, classes."""
    made_in = FOLDER / f"v{FORMAT_VERSION}"
    made_in.mkdir(parents=True)  # fails where they are there already
    _make(made_in / "ints", kind="int64", items=[])
    _make(made_in / "texts", kind="string", items=made.make_items(n_items=N_ITEMS, items="string"))
    _make(made_in / "features", kind="int64", items=[], change=_with_features)
    _make(made_in / "classes", kind="int64", items=[], change=_with_classes, label="weight>=4")


def _make(golden: Path, *, kind: str, items: Any, change: made.Change | None = None, **more: Any) -> None:
    events = made.make_events(n_users=N_USERS, n_items=N_ITEMS, users=kind, items=kind)
    with tempfile.TemporaryDirectory() as folder:
        training = {"model": "als", "params": {"factors": 4, "epochs": 3}}
        job = made.make_job(Path(folder), events=events, items=items, score=SCORE, train=training, **more)
        run = made.trained_run(job, change=change)
        publish(made.score_in_process(run))
        store = Path(run.store.url)
        for name in ("CURRENT", f"releases/{run.record.release}"):
            (golden / "store" / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (store / name).is_dir() else shutil.copyfile
            copy(store / name, golden / "store" / name)
    answers = answers_of(open_release(open_store(str(golden / "store"))))
    (golden / "answers.json").write_text(json.dumps(answers, indent=1, ensure_ascii=False) + "\n")


def _with_features(model: FactorModel, interactions: Interactions) -> FactorModel:
    """The model with what a family with features adds to it."""
    features = FeatureVectors(COLUMNS, model.item_vectors[:3].copy())
    return replace(model, bounds=(1.0, 5.0), user_features=features)


def _with_classes(model: FactorModel, interactions: Interactions) -> FactorModel:
    """The model as one of probabilities of the job's label."""
    return replace(model, link="logistic")


def answers_of(release: Release) -> dict[str, Any]:
    """All that a release answers, as JSON holds it; a float32 as a float comes back from JSON to the bit."""
    label = release.model.card.label
    return _answers(release) | _of_features(release) | ({} if label is None else {"label": label})


def _of_features(release: Release) -> dict[str, Any]:
    features = release.model.user_features
    if features is None:
        return {}
    vector, unknown = features.vector_of(ASKED)
    assert vector is not None
    return {"bounds": list(release.model.card.bounds or ()), "vector": vector.tolist(), "unknown": unknown}


def _answers(release: Release) -> dict[str, Any]:
    users, items = ids_of(release.model.user_ids), ids_of(release.model.item_ids)
    return {
        "release": release.id,
        "users": [
            {
                "user_id": user,
                "row": release.model.user_ids.find(user),
                "recommendations": _named(items, release.recommendations(row)),
                "history": _named(items, release.history(row)),
            }
            for row, user in enumerate(users)
        ],
        "items": [
            {
                "item_id": item,
                "row": release.model.item_ids.find(item),
                "title": release.title(row),
                "similar": _named(items, release.similar(row)),
            }
            for row, item in enumerate(items)
        ],
        "popular": _popular(items, release),
    }


def ids_of(ids: Any) -> list[Id]:
    """All ids, in row order."""
    return [ids[row] for row in range(len(ids))]


def _named(items: list[Id], ranked: Any) -> list[list[Any]]:
    return [[items[int(row)], float(value)] for row, value in zip(*ranked, strict=True)]


def ranked_now(release: Release) -> list[Any]:
    """(item rows, scores) per user as the engine ranks them now, from the arrays that the release keeps for it."""
    model = release.model
    ranker = Ranker(
        index=model.item_index(threads=1),
        user_vectors=model.user_vectors,
        seen=model.seen if release.manifest.exclude_seen else None,
    )
    lists = ranker.rank(slice(0, len(model.user_ids)), release.manifest.k)
    return [
        (lists.item_rows[row, :count], lists.scores[row, :count]) for row, count in enumerate(lists.counts)
    ]


def _popular(items: list[Id], release: Release) -> list[list[Any]]:
    """As popular.parquet holds them over all."""
    rows = release.by_popularity[: release.manifest.k].tolist()
    return [[items[row], float(release.model.popularity[row])] for row in rows]
