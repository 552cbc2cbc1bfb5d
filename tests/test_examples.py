"""jobs/examples/: each published system runs as a small night, without Ray, and its release answers over HTTP."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import made
from asked import Service, item_path, served, user_path
from made import Published
from nightrank.batch.inputs import find_inputs, load_interactions
from nightrank.batch.publish import publish
from nightrank.cli.app import main
from nightrank.config.job import load_job
from nightrank.quality.names import signed
from nightrank.release import open_release
from nightrank.service.job_overrides import settings_of
from nightrank.service.job_schemas import JobRequest
from pages import PAGES, ROOT, TEXTS, blocks

EXAMPLES = ROOT / "jobs" / "examples"
PAGE = PAGES["published-systems.md"]
N_USERS, N_ITEMS = 60, 40
GENRES = ("Comedy", "Drama", "Sci-Fi|Drama", '"War"')
JOBS = ("student", "doctor", "artist")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """$NIGHTRANK_HOME with small files in the form of MovieLens 100K, 1M and 25M, and what the page makes of them.

    Ages 18 and 50 like genres apart. Nobody has rated the last film, and the one before it has no 5 stars.
    """
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    users, items = np.divmod(np.flatnonzero(rng.random(N_USERS * (N_ITEMS - 1)) < 0.6), N_ITEMS - 1)
    liked = 2.0 * ((users % 2) == (items % 2)) - 1.0
    stars = np.clip(np.rint(3.3 + 1.2 * liked + rng.normal(scale=0.8, size=len(users))), 1, 5).astype(int)
    stars[items == N_ITEMS - 2] = 2
    ratings = pd.DataFrame(
        {"user_id": users + 1, "item_id": items + 1, "weight": stars, "timestamp": 978_300_000}
    )
    ratings["timestamp"] += rng.integers(10**7, size=len(ratings))
    films = pd.DataFrame({"item_id": range(1, N_ITEMS + 1)})
    films["title"] = [f"Amélie: {number} (2001)" for number in films.item_id]
    films["genres"] = [GENRES[number % len(GENRES)] for number in range(N_ITEMS)]
    people = pd.DataFrame({"user_id": range(1, N_USERS + 1)})
    people["gender"] = ["F" if number % 3 else "M" for number in people.user_id]
    people["age"] = [18 if number % 2 else 50 for number in people.user_id]
    people["occupation"] = [number % 3 for number in people.user_id]
    people["zip"] = "02139-1"
    small, large, largest = (home / "data" / name for name in ("movielens-100k", "ml-1m", "ml-25m"))
    for folder in (small, large, largest):
        folder.mkdir(parents=True)
    ratings.astype({"weight": np.float32}).to_parquet(small / "events.parquet")
    films.to_parquet(small / "items.parquet")
    people.assign(occupation=[JOBS[one] for one in people.occupation]).to_parquet(small / "users.parquet")
    for name, table in (("ratings", ratings), ("users", people), ("movies", films)):
        lines = ["::".join(map(str, row)) for row in table.itertuples(index=False)]
        (large / f"{name}.dat").write_text("\n".join(lines) + "\n", encoding="latin-1")
    theirs = {"user_id": "userId", "item_id": "movieId", "weight": "rating"}
    ratings.astype({"weight": float}).rename(columns=theirs).to_csv(largest / "ratings.csv", index=False)
    films.rename(columns=theirs).to_csv(largest / "movies.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIGHTRANK_HOME", str(home))
        patch.chdir(home)
        (home / "page.py").write_text("\n".join(blocks(PAGE, "python")), encoding="utf-8")
        runpy.run_path(str(home / "page.py"))
    return home


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTRANK_HOME", str(home))
    monkeypatch.chdir(home)


def written(name: str, data: str, **changed: Any) -> Path:
    """The example on other data: with these sections in place of its own."""
    path = Path(f"{name}-on-{data}.yaml").resolve()
    raw = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(raw | changed), encoding="utf-8")
    return path


def small(name: str) -> Path:
    """The example on the small files: a data set would be fetched, so it is named by its three files."""
    if "dataset:" not in (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"):
        return EXAMPLES / f"{name}.yaml"
    folder = "${NIGHTRANK_HOME}/data/movielens-100k"
    return written(
        name,
        "small",
        events={"path": f"{folder}/events.parquet", "columns": {"weight": "weight", "time": "timestamp"}},
        items={"path": f"{folder}/items.parquet", "title": "title", "features": ["genres"]},
        users={"path": f"{folder}/users.parquet", "features": ["age", "gender", "occupation"]},
    )


def with_other_data(name: str) -> Path:
    """The example with its commented lines in place of the sections that they say they replace."""
    text = (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")
    (lines,) = re.findall(r"in place of\s(?:# )?`.*above:\n#\n((?:# .*\n)+)", text, re.I)
    return written(name, "other", **yaml.safe_load(re.sub("^# ", "", lines, flags=re.M)))


def night(config: Path, *overrides: str) -> Service:
    """Train, gate, score and publish, in this process; and a service on the release."""
    job = load_job(config, overrides=overrides)
    run = made.score_in_process(made.trained_run(job))
    assert run.finished("train")["quality"]["change"] > 0  # these ratings have something to learn
    publish(run)
    service = served(Published(store=run.store, run=run, release=open_release(run.store, run.record.release)))
    assert service.published.release.manifest.family == job.train.model
    return service


def predicted(service: Service, user: int, items: list[int]) -> dict[str, Any]:
    """The answer on a user and some items."""
    body = {"pairs": [{"user_id": user, "item_id": item} for item in items]}
    answer: dict[str, Any] = service.post("/v1/predictions", body).json()
    return answer


def items_of(answer: dict[str, Any]) -> list[int]:
    return [one["item_id"] for one in answer["items"]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("svd-service", {"train": {"model": "svd", "params": {"factors": 50}}}),
        (
            "fm-classifier",
            {
                "train": {"model": "fm", "params": {"task": "label", "factors": 64, "epochs": 100}},
                "split": {"kind": "per_user", "n": 10},
                "label": "weight>=4",
            },
        ),
        (
            "als-shop",
            {
                "split": {"kind": "random_mask", "share": 0.2},
                "objective": {"metric": "map", "k": 20},
                "sweep": {"trials": 12, "models": {"als": {}}},
            },
        ),
        (
            "fm-metadata",
            {
                "train": {"model": "fm", "params": {"task": "rating", "factors": 120}},
                "split": {"kind": "random_mask", "share": 0.1},
                "objective": {"metric": "rmse"},
            },
        ),
        (
            "hybrid-warp",
            {
                "train": {"model": "hybrid", "params": {"loss": "warp"}},
                "objective": {"metric": "precision", "k": 5},
            },
        ),
    ],
)
def test_an_example_is_what_was_published(name: str, said: dict[str, Any]) -> None:
    """Model, split and measure of each system; it loads, also inside a Ray job, and has a store of its own."""
    raw = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    assert {key: raw[key] for key in said} == said
    job = load_job(EXAMPLES / f"{name}.yaml", inside_job=True)
    assert job.store.endswith(f"/{name}-store")


def test_svd_service() -> None:
    """Recommended, viewed, and the SVD computed again with another k, as the tutorial has it."""
    service = night(small("svd-service"), "train.params.factors=4", "split.n=5")
    history = service.get(user_path(1, "history"), k=N_ITEMS).json()
    assert [one["weight"] for one in history["items"]] == sorted(
        (one["weight"] for one in history["items"]), reverse=True
    )
    answer = service.get(user_path(1), k=N_ITEMS).json()
    assert answer["source"] == "precomputed"
    assert sorted(items_of(answer) + items_of(history)) == list(range(1, N_ITEMS))  # nobody rated the last
    assert predicted(service, 1, [1])["kind"] == "rating"
    (text,) = re.findall(r'`(\{"stage"[^`]*)`', PAGE)
    assert settings_of(JobRequest.model_validate_json(text).overrides)


def test_fm_classifier() -> None:
    """Probability and label of a pair; likes are told from dislikes."""
    service = night(small("fm-classifier"), "train.params.factors=8", "train.params.epochs=20")
    answer = predicted(service, 1, list(range(1, N_ITEMS - 1)))
    found = answer["predictions"]
    assert (answer["kind"], answer["label_rule"]) == ("probability", "weight>=4")
    assert [one["label"] for one in found] == [one["value"] >= 0.5 for one in found]
    liked = [one["item_id"] for one in found if one["label"]]
    assert len(liked) > 10
    assert all(item % 2 for item in liked)
    (said,) = map(json.loads, blocks(PAGE, "json prediction"))
    assert list(said) == list(answer)
    assert [list(one) for one in said["predictions"]] == [list(one) for one in found[:2]]


def test_fm_metadata_on_the_files_of_movielens_1m() -> None:
    """What the page makes of `::` files by the commented lines: ratings, and people and films never seen before."""
    service = night(with_other_data("fm-metadata"), "train.params.factors=16")
    for age, rest in ((18, 1), (50, 0)):
        features = {"age": age, "gender": "F", "occupation": 2}
        answer = service.post("/v1/recommendations", {"features": features, "k": 5}).json()
        assert answer["source"] == "features"
        assert "unknown_features" not in answer
        assert all(item % 2 == rest for item in items_of(answer))
        (said,) = map(json.loads, blocks(PAGE, "json answer"))
        assert list(said) == list(answer)
        assert list(said["items"][0]) == list(answer["items"][0])
    answer = predicted(service, 2, list(range(1, N_ITEMS)))
    assert answer["kind"] == "rating"
    assert all(1 <= one["value"] <= 5 for one in answer["predictions"])
    similar = service.get(item_path(3), k=3).json()
    assert all(item % 2 for item in items_of(similar))
    assert {one["title"] for one in similar["items"]} <= {f"Amélie: {n} (2001)" for n in range(N_ITEMS)}


def test_hybrid_warp() -> None:
    """Lists by 5-star ratings; a film without one is in them, and among the similar ones, by its genres."""
    service = night(small("hybrid-warp"), "train.params.factors=8", "split.share=0.3")
    answer = service.get(user_path(1), k=N_ITEMS).json()
    history = service.get(user_path(1, "history"), k=N_ITEMS).json()
    assert {one["weight"] for one in history["items"]} == {1.0}
    assert sorted(items_of(answer) + items_of(history)) == list(range(1, N_ITEMS + 1))
    best = [item for item in items_of(answer) if item < N_ITEMS - 1][:3]
    assert all(item % 2 for item in best)
    assert len(items_of(service.get(item_path(N_ITEMS), k=5).json())) == 5


def test_ratings_of_movielens_25m_count_from_five_stars_on() -> None:
    """Its own CSV files by the commented lines: of the ratings those of 5 stars are left, and all films."""
    job = load_job(with_other_data("hybrid-warp"))
    found = load_interactions(job, find_inputs(job), family="hybrid")
    ratings = pd.read_csv("data/ml-25m/ratings.csv")
    loved = ratings[ratings.rating == 5]
    users, items = found.user_items.nonzero()
    pairs = {
        (found.user_ids[int(user)], found.item_ids[int(item)])
        for user, item in zip(users, items, strict=True)
    }
    assert pairs == set(zip(loved.userId, loved.movieId, strict=True))
    assert len(found.item_ids) == N_ITEMS
    assert found.features is not None
    assert found.features.items is not None
    assert {one.name for one in found.features.items.columns} == {"genres"}


def evaluations() -> list[str]:
    """The `nightrank evaluate` commands of the page, each on one line."""
    lines = "\n".join(blocks(PAGE, "bash")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("nightrank evaluate")]


@pytest.mark.parametrize("command", evaluations())
def test_the_commands_of_the_page_measure(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As they stand, on the files that the page's lines write; and on the published data's, as it says."""
    (name,) = re.findall(r"jobs/examples/([\w-]+)\.yaml", command)
    runs = [(small(name), command)]
    if name == "fm-metadata":
        runs.append((with_other_data(name), command.replace("tenth-", "ml-1m-")))
    if name == "hybrid-warp":
        files = re.sub(r"five-stars-(train|test)\.parquet", r"ml-25m-\1.csv", command)
        runs.append((with_other_data(name), files))
    for config, text in runs:
        words = text.replace(f"jobs/examples/{name}.yaml", str(config)).split()
        with pytest.raises(SystemExit) as ended:
            main([*words[1:], "--json"])
        assert ended.value.code == 0
        metrics = json.loads(capsys.readouterr().out)["metrics"]
        assert all(one["value"] is not None for one in metrics.values())
        good = {"rmse": -1.0, "auc": 0.8, "rank_auc": 0.7}
        found = {one: metrics[one]["value"] for one in good if one in metrics}
        assert {one for one, value in found.items() if signed(value, metric=one) <= good[one]} == set(), found


def test_every_job_file_that_a_page_names_is_there_and_every_example_has_a_page() -> None:
    """Nobody is sent to a file that is not there, and no example is without its figures."""
    named = {path for page in TEXTS.values() for path in re.findall(r"\bjobs/[\w/-]+\.yaml", page)}
    for path in named:
        load_job(ROOT / path)
    examples = {f"jobs/examples/{path.name}" for path in EXAMPLES.glob("*.yaml")}
    assert examples == {path for path in named if "/examples/" in path}
    for path in examples:
        command = f"nightrank nightly --config {path}"
        assert command in PAGE
        assert command in (ROOT / path).read_text(encoding="utf-8")
