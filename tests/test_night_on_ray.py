"""The night on a real cluster: submitted as a job, stage by stage, killed, refused; then served over HTTP."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from made import GENRES, make_events, make_items
from nightrank.cli import main
from nightrank.cluster.check import check
from nightrank.cluster.local import LocalCluster, applied_env
from nightrank.cluster.session import joined, run_task
from nightrank.config.cluster import load_cluster
from nightrank.errors import ClusterError
from nightrank.release import open_release, open_store
from nightrank.release.publish import activate, published, verify
from nightrank.release.store import LocalStore
from nightrank.service.deploy import deploy, withdraw
from nightrank.service.places import places
from nightrank.service.serve_config import load_serve_config
from open_ports import assert_only_documented_ports_are_open

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Night:
    """A job file over hand-made files, and the cluster to run it on."""

    cluster: LocalCluster
    folder: Path

    @property
    def config(self) -> Path:
        """The job file."""
        return self.folder / "job.yaml"

    @property
    def store(self) -> Path:
        """Its store."""
        return self.folder / "store"

    def submit(self, job: str, *settings: str) -> tuple[int, str]:
        """(exit code, log) of `ray job submit` of a script in jobs/, from the repository as working directory."""
        options = [part for setting in settings for part in ("--set", setting)]
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", str(REPO), "--"),
            *("python", f"jobs/{job}.py", "--config", str(self.config), *options),
        ]
        environment = {**os.environ, **self.cluster.env}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def summary(self, job: str, *settings: str) -> dict[str, Any]:
        """The JSON object that a job's log ends with."""
        code, log = self.submit(job, *settings)
        assert code == 0, log
        lines = [line for line in log.splitlines() if line.startswith("{")]
        summary: dict[str, Any] = json.loads(lines[-1])
        return summary


@pytest.fixture(scope="module")
def night(cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Events as a data engineer hands them over: gzipped CSV, string ids, two files, own column names."""
    folder = tmp_path_factory.mktemp("night")
    events = make_events(n_users=120, users="string", items="string", seed=3)
    write_csvs(folder / "events", events)
    items = make_items(items="string").to_pylist()
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["product", "name", "kind"])
        writer.writerows((row["item_id"], row["title"], row["genres"]) for row in items)
    job = {
        "store": "store",
        "events": {
            "path": "events",
            "columns": {"user": "who", "item": "product", "weight": "stars", "time": "at", "type": "kind"},
            "type_weights": {"view": 1, "buy": 3},
        },
        "items": {"path": "items.csv", "title": "name", "categories": "kind"},
        "sweep": {"trials": 1, "models": {"als": {"factors": [4, 8], "epochs": 3}}},
        "gate": {"min_change": -1.0},
        "score": {"k": 20, "buckets": 5, "similar_items_k": 5},
    }
    # Inside a job every path is absolute.
    job["store"] = str(folder / "store")
    job["events"]["path"], job["items"]["path"] = str(folder / "events"), str(folder / "items.csv")  # type: ignore[index]
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return Night(cluster=cluster, folder=folder)


def write_csvs(folder: Path, events: pa.Table) -> None:
    """Two gzipped CSV files with columns who, product, stars, at, kind."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    rows = events.to_pylist()
    for part in range(2):
        path = folder / f"part-{part}.csv.gz"
        with gzip.open(path, "wt", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["who", "product", "stars", "at", "kind"])
            for row in rows[part::2]:
                kind = ("view", "buy")[int(rng.integers(2))]
                writer.writerow([row["user_id"], row["item_id"], row["weight"], row["timestamp"], kind])


def get(url: str) -> dict[str, Any]:
    """A JSON answer."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        body: dict[str, Any] = json.load(answer)
    return body


def parquet_bytes(store: Path, release: str) -> dict[str, bytes]:
    """Every Parquet file of a release."""
    folder = store / "releases" / release
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


@pytest.fixture(scope="module")
def first(night: Night) -> dict[str, Any]:
    """The summary of the first night, submitted as a job."""
    return night.summary("nightly")


def test_a_job_publishes_a_release_that_verifies(night: Night, first: dict[str, Any]) -> None:
    """`ray job submit` of jobs/nightly.py ends with one JSON object about a release that is in service."""
    store = open_store(str(night.store))
    assert first["in_service"] == first["release"] == open_release(store).id
    assert set(first["seconds"]) == {"sweep", "train", "score", "publish"}
    assert first["counts"]["users"] == 120
    manifest = verify(store, first["release"])
    rows = sum(
        record.rows or 0 for name, record in manifest.files.items() if name.startswith("recommendations/")
    )
    assert rows == first["counts"]["recommendations"]
    assert manifest.gates["quality"]["passed"]
    assert manifest.gates["structure"]["passed"]


def test_a_rerun_does_nothing_twice(night: Night, first: dict[str, Any]) -> None:
    """The same job on the same events skips every stage and leaves the release's files untouched."""
    before = {path: path.stat().st_mtime_ns for path in night.store.rglob("*.parquet")}
    again = night.summary("nightly")
    assert again["skipped"] == ["sweep", "train", "score", "publish"]
    assert again["release"] == first["release"]
    assert {path: path.stat().st_mtime_ns for path in night.store.rglob("*.parquet")} == before


def test_stages_alone_give_the_same_bytes(night: Night, first: dict[str, Any]) -> None:
    """Stage by stage into another store, with three scorers and fresh ids of release, the Parquet is equal."""
    other = night.folder / "other"
    actors = yaml.safe_load((REPO / "cluster.yaml").read_text())
    actors["metadata"]["actors"]["scorer"] |= {"num_cpus": 0.3, "max_count": 3, "min_count": 3}
    (night.folder / "three.yaml").write_text(yaml.safe_dump(actors))
    with applied_env(night.cluster):
        for stage in ("sweep", "train", "score", "publish"):
            command([stage, *config(night, f"store={other}"), "--cluster", str(night.folder / "three.yaml")])
    release = open_release(open_store(str(other))).id
    assert parquet_bytes(other, release) == parquet_bytes(night.store, first["release"])


def config(night: Night, *settings: str) -> list[str]:
    """Options that name the job file, with settings in place of its own."""
    return ["--config", str(night.config), *(part for one in settings for part in ("--set", one))]


def command(arguments: list[str]) -> None:
    """Run a nightrank command in this process; it must succeed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0


def test_stages_in_the_wrong_order_are_refused(
    night: Night, first: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """score before train says which stage is missing, with exit code 2, and writes no release."""
    with applied_env(night.cluster), pytest.raises(SystemExit) as ended:
        main(["score", *config(night, "seed=77")])
    assert ended.value.code == 2
    assert "has not finished its train stage" in capsys.readouterr().err


def test_the_gate_refuses_before_anything_is_scored(night: Night, first: dict[str, Any]) -> None:
    """A candidate below gate.min_change ends the job with exit code 3; CURRENT and the releases stay."""
    store = open_store(str(night.store))
    before = published(store)
    code, log = night.submit("nightly", "gate.min_change=0.99", "train.model=popularity")
    assert code != 0
    assert "the quality gate refused" in log
    assert "exit code 3" in log or "code 3" in log or "status code 3" in log, log
    assert published(store) == before
    assert open_release(store).id == first["release"]


def test_workers_run_the_package_that_the_job_brought(night: Night) -> None:
    """Tasks import nightrank from what the driver shipped, so nodes need only its dependencies."""

    def package_folder() -> str:
        import nightrank

        return str(nightrank.__file__)

    with applied_env(night.cluster), joined():
        where = run_task(package_folder, spec=load_cluster(REPO / "cluster.yaml").driver)
    assert "py_modules" in where


def test_the_service_answers_from_the_release_in_service(
    night: Night, first: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Over real HTTP the plain answer is the Parquet row, an activated release is taken up, a job runs beside the
    service on 2 CPUs, and other machines reach no port but the documented one."""
    served = load_serve_config(REPO / "serve_config.yaml")
    with applied_env(night.cluster):
        url = deploy(
            served,
            dashboard_url=night.cluster.dashboard_url,
            port=night.cluster.http_port,
            store=str(night.store),
        )
        try:
            assert get(f"{url}/readyz")["release"] == first["release"]
            assert_answers_are_rows(night, url, first["release"])
            second = night.summary("nightly", "seed=5")
            assert held(url, second["release"])
            activate(open_store(str(night.store)), first["release"])
            assert held(url, first["release"])
            assert_all_is_checked(night)
            assert_only_documented_ports_are_open(night.cluster)
            assert_seen_by_operators(night, url, second["release"])
            assert_others_are_left_alone(night, url)
        finally:
            withdraw(served, dashboard_url=night.cluster.dashboard_url)


def assert_seen_by_operators(night: Night, url: str, release: str) -> None:
    """The replica's log says what it answers from; its counts are on the page that `nightrank serve` prints."""
    logs = Path(night.cluster.env["RAY_TMPDIR"], "ray/session_latest/logs/serve")
    texts = [one.read_text() for one in logs.glob("replica_nightrank_Service_*.log")]
    assert len(texts) == 2
    assert all(f"answering from release {release}" in text for text in texts)
    assert get(f"{url}/v1/stats")["swaps"] == {"done": 3, "refused": 0}
    served = load_serve_config(REPO / "serve_config.yaml")
    where = {"dashboard_url": night.cluster.dashboard_url, "store": str(night.store)}
    (page,) = re.findall(r"^metrics +(\S+)$", places(served, base=url, ingress="haproxy", **where), re.M)
    swaps = r'^ray_nightrank_swaps_total\{.*deployment="Service".*outcome="done".*\} 3\.0$'
    for _ in range(60):  # Ray's processes report every ten seconds
        with urllib.request.urlopen(page, timeout=10) as answer:
            if re.search(swaps, answer.read().decode(), re.M):
                return
        time.sleep(0.5)
    raise AssertionError(f"no three swaps on {page}")


def assert_all_is_checked(night: Night) -> None:
    """`cluster check` is content with the cluster, and leaves nothing in the store."""
    before = sorted(path.name for path in night.store.iterdir())
    lines = check(load_cluster(REPO / "cluster.yaml"), open_store(str(night.store)))
    assert [line.split()[0] for line in lines] == ["ok", "ok", "ingress"]
    assert f"store {night.store}" in lines[1]
    assert sorted(path.name for path in night.store.iterdir()) == before
    apart = LocalStore(night.store)
    apart.url = str(night.folder / "another")  # what a node sees that has something else mounted there
    with pytest.raises(
        ClusterError, match=r"node 127\.0\.0\.1 .* does not share the store .*mount one folder"
    ):
        check(load_cluster(REPO / "cluster.yaml"), apart)
    assert sorted(path.name for path in night.store.iterdir()) == before


def assert_others_are_left_alone(night: Night, url: str) -> None:
    """A configuration without the running application neither replaces it nor takes it down."""
    served = load_serve_config(REPO / "serve_config.yaml")
    served.raw["applications"][0]["name"] = "another"
    where = {"dashboard_url": night.cluster.dashboard_url}
    with pytest.raises(ClusterError, match="already serves nightrank"):
        deploy(served, port=night.cluster.http_port, store=str(night.store), **where)
    withdraw(served, **where)
    time.sleep(2.0)
    assert get(f"{url}/healthz") == {"status": "ok"}


def held(url: str, release: str) -> bool:
    """Do both replicas, which take turns, come to answer from a release within seconds?"""
    for _ in range(100):
        if {get(f"{url}/v1/releases/current")["held"] for _ in range(8)} == {release}:
            return True
        time.sleep(0.1)
    return False


def assert_answers_are_rows(night: Night, url: str, release: str) -> None:
    """Every row of one user's list, as DuckDB reads it from Parquet, is what HTTP answers; titles included."""
    import duckdb

    folder = night.store / "releases" / release
    rows = duckdb.sql(
        f"SELECT item_id, rank, score FROM '{folder}/recommendations/*.parquet' "
        "WHERE user_id = 'ünïcode' ORDER BY rank"
    ).fetchall()
    answer = get(f"{url}/v1/users/%C3%BCn%C3%AFcode/recommendations?k=20")
    assert answer["source"] == "precomputed"
    assert [(item["item_id"], item["rank"], item["score"]) for item in answer["items"]] == rows
    assert any("title" in item for item in answer["items"])
    popular = get(f"{url}/v1/users/nobody/recommendations?k=3")
    assert (popular["source"], len(popular["items"])) == ("popular", 3)
    assert get(f"{url}/v1/items/{popular['items'][0]['item_id']}/similar?k=2")["items"]
    categories = duckdb.sql(f"SELECT DISTINCT category FROM '{folder}/popular.parquet'").fetchall()
    assert {name for (name,) in categories} == {None, *GENRES}
