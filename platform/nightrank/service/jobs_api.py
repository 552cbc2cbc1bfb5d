"""Ray's jobs API over plain HTTP: one try, with a limit in time, at exactly the address of the settings.

Ray's own client will not do inside a replica: it goes where RAY_ADDRESS says, whatever address it is given, has no
limit in time, and asks twice for the version first. Refused here: redirects and the environment's proxies, to which
the token would go too.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from nightrank.config.service import JobsSettings
from nightrank.service.refusal import RequestError

log = logging.getLogger("nightrank.service")

# Two questions, or one and a submission, stay below the service's own limit for a request (10 s as shipped). A
# cluster that is busy takes a second to take a job.
TIMEOUT_S, SUBMIT_TIMEOUT_S = 3.0, 6.5
MAX_ANSWER_BYTES = 32 * 2**20


class JobLog(NamedTuple):
    """A job's whole log so far. problem: why there is none of it, for anybody who asks over HTTP."""

    text: str
    problem: str | None = None


class _TooLong(RequestError):
    """An answer of more than `MAX_ANSWER_BYTES`."""


class JobsApi:
    """The jobs API of one cluster. Every call blocks, for some seconds where nothing is heard."""

    def __init__(self, settings: JobsSettings) -> None:
        self._settings = settings
        self._address = urlsplit(settings.address)

    def submit(self, job: dict[str, Any]) -> None:
        """Hand over a job of our own id. Raises RequestError 503 where it was not taken."""
        self._call("POST", "/api/jobs/", job, timeout_s=SUBMIT_TIMEOUT_S)

    def details(self, job_id: str) -> dict[str, Any] | None:
        """What the cluster knows of a job, None where it knows none. Raises RequestError 503."""
        found = self._call("GET", f"/api/jobs/{job_id}")
        if found is not None and not isinstance(found, dict):
            raise self._unavailable(f"GET of job {job_id} gave {type(found).__name__}, expected an object")
        return found

    def all_details(self) -> list[dict[str, Any]]:
        """What the cluster knows of every job, drivers that were not submitted included. Raises RequestError 503."""
        found = self._call("GET", "/api/jobs/")
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise self._unavailable("GET of all jobs gave no list of objects")
        return found

    def log_of(self, job_id: str) -> JobLog:
        """Never raises: a job can be told about without its log."""
        try:
            found = self._call("GET", f"/api/jobs/{job_id}/logs")
            return JobLog("") if found is None else JobLog(_text(found["logs"]))
        except _TooLong:
            return JobLog(
                "", f"its log is longer than {MAX_ANSWER_BYTES / 2**20:g} MiB, more than is read here"
            )
        except (RequestError, TypeError, KeyError):
            log.warning("the log of job %s cannot be read", job_id)
            return JobLog("", "its log cannot be read just now; see the service's log")

    def token(self) -> str | None:
        """The cluster's token as the settings name it, else as Ray's variables do; None where tokens are off."""
        if self._settings.token is not None:
            return self._read(Path(self._settings.token))
        if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
            return None
        if os.environ.get("RAY_AUTH_TOKEN"):
            return os.environ["RAY_AUTH_TOKEN"].strip()
        path = os.environ.get("RAY_AUTH_TOKEN_PATH") or os.path.expanduser("~/.ray/auth_token")
        return self._read(Path(path))

    def _read(self, path: Path) -> str:
        try:
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise self._unavailable(f"the cluster's token cannot be read: {error}") from None
        if not token.isprintable() or token == "":
            raise self._unavailable(f"{path} holds no token, expected one line of printable characters")
        return token

    def _call(self, method: str, path: str, body: Any = None, *, timeout_s: float | None = None) -> Any:
        """The answer's JSON, None for 404."""
        timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        sent = None if body is None else json.dumps(body).encode()
        status, data = self._answer(method, path, sent, timeout_s=timeout_s)
        if status == 404:
            return None
        text = data[:2_000].decode(errors="replace")
        if status in (401, 403):
            cure = "is jobs.token (or RAY_AUTH_TOKEN_PATH of the replica) the cluster's?"
            raise self._unavailable(f"the token was refused ({status}: {text}); {cure}")
        if len(data) > MAX_ANSWER_BYTES:
            raise self._unavailable(f"{method} {path} gave more than {MAX_ANSWER_BYTES} bytes", kind=_TooLong)
        if status != 200:
            raise self._unavailable(f"{method} {path} gave status {status}: {text}")
        try:
            return json.loads(data)
        except ValueError:
            raise self._unavailable(f"{method} {path} gave no JSON: {text[:200]}") from None

    def _answer(self, method: str, path: str, body: bytes | None, *, timeout_s: float) -> tuple[int, bytes]:
        token = self.token()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        where = self._address
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        try:
            connection = kind(where.hostname or "", where.port, timeout=timeout_s)
            try:
                connection.request(method, path, body=body, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read(MAX_ANSWER_BYTES + 1)
            finally:
                connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = f"{type(error).__name__}: {error}"
            raise self._unavailable(f"{method} {path} was not answered: {reason}") from None

    def _unavailable(self, reason: str, *, kind: type[RequestError] = RequestError) -> RequestError:
        """The reason goes to the log; over HTTP nobody learns the place."""
        log.error("jobs API at %s: %s", self._settings.address, reason)
        return kind(
            503,
            "jobs_unavailable",
            "the cluster's jobs API does not answer as expected; see the service's log",
        )


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError(f"found {type(found).__name__}, expected a text")
    return found
