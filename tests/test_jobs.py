"""Jobs over HTTP: what is refused before the cluster hears of it, what is told of a job, and one run for real."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from jobs_server import jobs_server
from made import COLUMNS, make_events
from nightrank.cluster.local import LocalCluster, applied_env
from nightrank.config.service import JobsSettings
from nightrank.release.store import LocalStore
from nightrank.service import jobs_api
from nightrank.service.holder import ReleaseHolder
from nightrank.service.job_schemas import JobRequest, JobState
from nightrank.service.jobs import MARK, MOST_IN_PROGRESS, Jobs
from nightrank.service.jobs_api import JobsApi
from nightrank.service.refusal import RequestError

PATH = re.compile(r"(?<![\w.])/\w")


def job_file(folder: Path, **settings: Any) -> Path:
    """A job over a made-up table."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(make_events(), folder / "events.parquet")
    raw = {
        "store": str(folder / "store"),
        "events": {"path": str(folder / "events.parquet"), "columns": COLUMNS},
        "train": {"model": "als", "params": {"factors": 8, "epochs": 3}},
        "gate": {"min_change": -1.0},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(raw | settings))
    return folder / "job.yaml"


def jobs_of(config: Path, *, address: str, **settings: str) -> Jobs:
    """Jobs as a replica holds them, beside the store of the job file."""
    holder = ReleaseHolder(LocalStore(config.parent / "store"))
    return Jobs(JobsSettings(address=address, config=str(config), **settings), told=holder.told)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A job file in a folder whose name holds a blank."""
    return job_file(tmp_path / "a night")


@contextmanager
def refusing(status: int, body: str, *, headers: Mapping[str, str] = {}) -> Iterator[tuple[str, list[str]]]:
    """The address of a server that gives one answer to everything, and the Authorization headers it was sent."""
    sent: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers.get("Authorization", ""))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", sent
        finally:
            server.shutdown()
            thread.join()


def refused(work: Any, *, status: int, code: str) -> str:
    """The message of the refusal, which names no place."""
    with pytest.raises(RequestError) as caught:
        work()
    assert (caught.value.status, caught.value.code) == (status, code)
    message = str(caught.value)
    assert not PATH.search(message), message
    assert "127.0.0.1" not in message
    return message


TRAIN = JobRequest(stage="train")


@pytest.mark.parametrize(
    ("status", "body", "logged"),
    [
        (401, "Unauthorized", "the token was refused (401: Unauthorized)"),
        (403, "Forbidden", "the token was refused (403: Forbidden)"),
        (500, "Traceback in /x/y.py", "status 500: Traceback"),
        (200, "<html>", "no JSON"),
        (302, "", "status 302"),
    ],
)
def test_a_cluster_that_refuses_is_told_to_the_log_alone(
    config: Path, caplog: pytest.LogCaptureFixture, status: int, body: str, logged: str
) -> None:
    """An operator reads which of address and token is wrong; a caller learns no place, and that it is not them."""
    with refusing(status, body, headers={"Location": "http://127.0.0.1:1/"}) as (address, _):
        jobs = jobs_of(config, address=address)
        refused(lambda: jobs.submit(TRAIN), status=503, code="jobs_unavailable")
        refused(lambda: jobs.state("nightrank-train-x"), status=503, code="jobs_unavailable")
    assert logged in caplog.text
    assert address in caplog.text


def test_a_dead_and_a_silent_address_end_in_time(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No thread of the service waits for ever for a cluster that is gone."""
    monkeypatch.setattr(jobs_api, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(jobs_api, "SUBMIT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        jobs = jobs_of(config, address=address)
        refused(lambda: jobs.state("x"), status=503, code="jobs_unavailable")
        refused(lambda: jobs.submit(TRAIN), status=503, code="jobs_unavailable")
    assert "TimeoutError" in caplog.text
    refused(lambda: jobs.submit(TRAIN), status=503, code="jobs_unavailable")
    assert "ConnectionRefusedError" in caplog.text


def test_a_submission_that_is_not_answered_may_have_been_taken(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caller learns by which id to ask for it, before trying once more."""
    monkeypatch.setattr(jobs_api, "SUBMIT_TIMEOUT_S", 0.1)
    with jobs_server() as cluster:
        cluster.takes.clear()
        jobs = jobs_of(config, address=cluster.address)
        message = refused(lambda: jobs.submit(TRAIN), status=503, code="jobs_unavailable")
        job = re.search(
            r"job (nightrank-train-\d{8}T\d{6}Z-[0-9a-f]{8}) have been taken all the same", message
        )
        assert job is not None
        cluster.takes.set()
        while job[1] not in cluster.jobs:
            time.sleep(0.01)
        assert jobs.state(job[1]).state == "SUCCEEDED"


def test_no_more_than_a_few_jobs_are_in_progress(config: Path) -> None:
    """Only nightrank's own that have not ended count, however they started; then it is 409."""
    with jobs_server(state="PENDING") as cluster:
        jobs = jobs_of(config, address=cluster.address)
        for number in range(MOST_IN_PROGRESS):
            cluster.add(f"other-{number}", status="RUNNING", metadata=None)
            cluster.add(f"ended-{number}", status=("FAILED", "STOPPED")[number % 2], metadata={MARK: "train"})
        cluster.add("by-hand", status="RUNNING", metadata={MARK: "nightly"})
        taken = [jobs.submit(TRAIN).id for _ in range(MOST_IN_PROGRESS - 1)]
        before = set(cluster.jobs)
        message = refused(lambda: jobs.submit(TRAIN), status=409, code="jobs_busy")
        assert f"{MOST_IN_PROGRESS} jobs of nightrank's are pending or running" in message
        assert set(cluster.jobs) == before
        cluster.jobs[taken[0]]["status"] = "SUCCEEDED"
        assert jobs.submit(TRAIN).state == "PENDING"


def test_a_log_that_is_too_long_is_said_to_be(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty fields alone would look like a job that did nothing."""
    with jobs_server(log="18:05:15 train: done in 3.48 s\n" * 30_000) as cluster:
        jobs = jobs_of(config, address=cluster.address)
        cluster.add("x", metadata={MARK: "train"}, message="Job finished successfully.")
        state = jobs.state("x")
        assert (state.seconds, state.message) == ({"train": 3.48}, "Job finished successfully.")
        monkeypatch.setattr(jobs_api, "MAX_ANSWER_BYTES", 2**19)
        state = jobs.state("x")
        assert (state.seconds, state.log) == ({}, [])
        assert (
            state.message
            == "Job finished successfully; its log is longer than 0.5 MiB, more than is read here"
        )
        cluster.jobs["x"]["message"], cluster.log = None, None
        assert jobs.state("x").message == "its log cannot be read just now; see the service's log"


def test_the_token_is_that_of_the_settings_and_follows_no_redirect(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A token reaches the address of the settings and nobody else; rotating the file needs no restart."""
    token = config.parent / "token"
    token.write_text("first\n")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-the-node")
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with (
        refusing(404, "") as (other, heard),
        refusing(302, "", headers={"Location": other}) as (address, sent),
    ):
        jobs = jobs_of(config, address=address, token=str(token))
        for _ in range(2):
            refused(lambda: jobs.state("x"), status=503, code="jobs_unavailable")
            token.write_text("second\n")
        refused(lambda: jobs_of(config, address=address).state("x"), status=503, code="jobs_unavailable")
        assert (sent, heard) == (["Bearer first", "Bearer second", "Bearer of-the-node"], [])
        for text in ("", "two\nlines", "\0"):
            token.write_text(text)
            refused(lambda: jobs.state("x"), status=503, code="jobs_unavailable")
        token.unlink()
        refused(lambda: jobs.state("x"), status=503, code="jobs_unavailable")
        assert len(sent) == 3
    assert "cannot be read" in caplog.text
    assert "first" not in caplog.text


def test_rays_own_variables_name_the_token_where_the_settings_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for every other client of Ray: none where tokens are off, else variable, named file, file in the home."""
    api = JobsApi(JobsSettings(address="http://127.0.0.1:1", config="/job.yaml"))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert api.token() is None
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home")
    assert api.token() == "home"
    (tmp_path / "named").write_text("named\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert api.token() == "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    assert api.token() == "given"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"store": "/tmp/x"}, "store: found"),
        ({"train.model": "svm"}, "did you mean svd"),
        ({"train": {"model": "svd", "params": {"factors": 0}}}, "train.params.factors: found 0, expected"),
        ({"events.half_life_days": -1}, "found -1, expected more than 0"),
        ({"train": {"model": "svd", "colour": 1}}, "train.colour: unknown key"),
        ({"objective.relevant": "${NIGHTRANK_SECRET}"}, "no variables"),
        ({"score": {"k": 10_001}}, "score.k: found 10001, expected at most 10000; more can only be said in"),
        ({"sweep.trials": 10**6, "score.buckets": 10**9}, "2 problems"),
    ],
)
def test_overrides_that_cannot_be_are_422_and_are_never_submitted(
    config: Path, monkeypatch: pytest.MonkeyPatch, overrides: dict[str, Any], said: str
) -> None:
    """The caller reads found, expected and nearest; the cluster hears nothing; the environment stays private."""
    monkeypatch.setenv("NIGHTRANK_SECRET", "hunter2")
    with refusing(404, "") as (address, sent):
        jobs = jobs_of(config, address=address)
        request = JobRequest(stage="train", overrides=overrides)
        message = refused_whatever_is_echoed(jobs, request)
    assert said in message
    assert str(config.parent) not in message
    assert "hunter2" not in message
    assert sent == []


def refused_whatever_is_echoed(jobs: Jobs, request: JobRequest) -> str:
    with pytest.raises(RequestError) as caught:
        jobs.submit(request)
    assert (caught.value.status, caught.value.code) == (422, "invalid_overrides")
    return str(caught.value)


@pytest.mark.parametrize("broken", ["store: relative/store", "evnets: 1", None])
def test_a_job_file_that_cannot_be_used_is_not_the_callers_fault(
    config: Path, caplog: pytest.LogCaptureFixture, broken: str | None
) -> None:
    """503 and the reason in the service's log, not 422: also for paths that a Ray job would refuse."""
    if broken is None:
        config.unlink()
    else:
        config.write_text(f"{broken}\nevents: {{dataset: movielens-100k}}\n")
    jobs = jobs_of(config, address="http://127.0.0.1:1")
    refused(lambda: jobs.submit(TRAIN), status=503, code="jobs_unavailable")
    assert str(config) in caplog.text


@pytest.mark.parametrize(
    "job_id", ["../../nodes", "a/b", "a?x=1", "", "a" * 129, "a\r\nX: y", ".", "/etc/passwd", "ä"]
)
def test_an_id_that_cannot_be_one_is_unknown_and_asks_nobody(config: Path, job_id: str) -> None:
    """An id is no way into other parts of the cluster's API."""
    with refusing(200, "{}") as (address, sent):
        refused(lambda: jobs_of(config, address=address).state(job_id), status=404, code="unknown_job")
        assert sent == []


@pytest.mark.parametrize("metadata", [None, {}, {"stage": "train"}, {MARK: "rm"}])
def test_another_job_of_the_cluster_does_not_exist_here(config: Path, metadata: Any) -> None:
    """What else runs on the cluster, its command and its log, is none of a caller's business."""
    body = json.dumps({"status": "RUNNING", "metadata": metadata, "entrypoint": "secret"})
    with refusing(200, body) as (address, _):
        message = refused(
            lambda: jobs_of(config, address=address).state("raysubmit_1"), status=404, code="unknown_job"
        )
    assert "secret" not in message


def test_places_and_the_token_known_by_name_are_hidden(config: Path) -> None:
    """A path with a blank does not look like one path, and a bare token like nothing at all."""
    (config.parent / "token").write_text("hunter2-hunter2")
    users = config.parent / "users.parquet"
    with config.open("a") as file:
        file.write(f"users: {{path: '{users}', features: [age]}}\n")
    known = (
        f"{config} hunter2-hunter2 store {config.parent / 'store'} {config.parent / 'events.parquet'} {users}"
    )
    body = {
        "status": "FAILED",
        "metadata": {MARK: "train"},
        "message": f"{known}, last available logs (truncated to 20,000 chars):\nsecret",
        "logs": f"{known}\n",
    }
    with refusing(200, json.dumps(body)) as (address, _):
        state = jobs_of(config, address=address, token=str(config.parent / "token")).state("x")
    hidden = "the job file ... the store events.parquet users.parquet"
    assert (state.message, state.log) == (hidden, [hidden])


def ended(jobs: Jobs, job_id: str) -> JobState:
    """The job once it has ended."""
    while (state := jobs.state(job_id)).state in ("PENDING", "RUNNING"):
        time.sleep(0.2)
    return state


@pytest.mark.ray
def test_a_job_runs_on_the_cluster_and_is_told_about(cluster: LocalCluster, tmp_path: Path) -> None:
    """train of a svd with other factors succeeds with seconds and summary; a stage too early fails with its reason.

    A job that somebody else submitted is unknown.
    """
    config = job_file(tmp_path / "a night")
    with applied_env(cluster):
        jobs = jobs_of(config, address=cluster.dashboard_url)
        svd = {"train": {"model": "svd", "params": {"factors": 5}}}
        good = jobs.submit(JobRequest(stage="train", overrides=svd))
        bad = jobs.submit(JobRequest(stage="score", overrides={"train": {"model": None}, "seed": 7}))
        JobsApi(JobsSettings(address=cluster.dashboard_url, config=str(config))).submit(
            {"submission_id": "somebody", "entrypoint": "true"}
        )
        refused(lambda: jobs.state("somebody"), status=404, code="unknown_job")
        refused(lambda: jobs.state(f"{good.id}0"), status=404, code="unknown_job")
        good_end, bad_end = ended(jobs, good.id), ended(jobs, bad.id)
    assert (good_end.state, good_end.exit_code, good_end.stage) == ("SUCCEEDED", 0, "train")
    assert set(good_end.seconds) == {"train"}
    assert good_end.result is not None
    assert good_end.result["recipe"] == {"family": "svd", "params": {"factors": 5}}
    assert good_end.submitted is not None
    assert good_end.ended is not None
    assert good_end.submitted < good_end.ended
    assert (bad_end.state, bad_end.exit_code) == ("FAILED", 2)
    assert (bad_end.seconds, bad_end.result) == ({}, None)
    assert bad_end.message == "Job entrypoint command failed with exit code 2"
    assert "nightrank: the store has no run of these events" in bad_end.log[-1]
    for line in [*good_end.log, *bad_end.log]:
        assert not PATH.search(line), line
        assert "a night" not in line
