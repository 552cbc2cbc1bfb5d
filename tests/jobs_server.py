"""A server that stands where a cluster's jobs API would, and answers as Ray 2.60 does; it runs nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class JobsServer:
    """jobs: by id, as Ray describes them; a submitted one is in `state` at once. log: of each of them.

    takes: cleared, a submission is heard and not answered.
    """

    def __init__(self, *, state: str = "SUCCEEDED", log: str = "") -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.state, self.address = state, ""
        self.log: str | None = log  # None: what no Ray would answer
        self.takes = threading.Event()
        self.takes.set()

    def add(self, job_id: str, **details: Any) -> None:
        """A job that somebody has submitted."""
        self.jobs[job_id] = {
            "type": "SUBMISSION",
            "submission_id": job_id,
            "status": self.state,
            "message": None,
            "metadata": {},
            "start_time": 1_795_285_503_281,
            "end_time": 1_795_285_518_164,
            "driver_exit_code": 0,
        } | details

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON, or text."""
        parts = path.removeprefix("/api/jobs/").split("/")
        if method == "POST":
            job = json.loads(body)
            self.takes.wait()
            self.add(job["submission_id"], entrypoint=job["entrypoint"], metadata=job.get("metadata"))
            return 200, {"submission_id": job["submission_id"]}
        if parts == [""]:
            return 200, list(self.jobs.values())
        if parts[0] not in self.jobs:
            return 404, f"Job {parts[0]} does not exist"
        return 200, {"logs": self.log} if parts[1:] == ["logs"] else self.jobs[parts[0]]


@contextmanager
def jobs_server(**options: str) -> Iterator[JobsServer]:
    """One on loopback, until the block ends."""
    jobs = JobsServer(**options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, answer = jobs.answer(self.command, self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer.encode() if isinstance(answer, str) else json.dumps(answer).encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        jobs.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield jobs
        finally:
            jobs.takes.set()
            server.shutdown()
            thread.join()
