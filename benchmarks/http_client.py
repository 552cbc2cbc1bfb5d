"""A small HTTP/1.1 load generator: a process of its own, keep-alive connections, one record per request.

    python benchmarks/http_client.py PLAN.json RECORDS.npz

`Load` writes the plan, starts that process and reads the records. A connection sends its next request when the last
is answered (a closed loop), or at its turn of a fixed rate; a request that is late then counts from when it was due,
so that a server which stops is not asked less about it. A GET may be tried once more after a lost connection or 5xx.
It refuses nothing and judges nothing: every status, a lost connection included, is a record.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import httptools
import numpy as np
import uvloop
from numpy.typing import NDArray

LOST, UNANSWERED = 0, -1  # in place of a status: the connection broke; no answer when the run was over
GRACE_S = 15.0
RETRY_PAUSE_S = 0.05
CONNECT_PAUSE_S = 0.02


@dataclass(frozen=True)
class Request:
    """One request; `path` with its query."""

    path: str
    method: str = "GET"
    body: str | None = None

    def wire(self, host: str) -> bytes:
        """The bytes that are sent."""
        head = f"{self.method} {self.path} HTTP/1.1\r\nHost: {host}\r\n"
        if self.body is None:
            return f"{head}\r\n".encode()
        raw = self.body.encode()
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw


@dataclass(frozen=True)
class Records:
    """What happened, a row per request in order of completion. Times are seconds of this machine's monotonic clock.

    began, seconds: float64. status, request, body, tries: int32; `body` is a row of `digests` (SHA-256, hex), -1
    without one. told: for each status other than 200 how its first body begins, and whether it had Retry-After.
    """

    began: NDArray[np.float64]
    seconds: NDArray[np.float64]
    status: NDArray[np.int32]
    request: NDArray[np.int32]
    body: NDArray[np.int32]
    tries: NDArray[np.int32]
    digests: list[str]
    told: dict[str, Any]

    @property
    def ended(self) -> NDArray[np.float64]:
        """When each was over."""
        return self.began + self.seconds

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Those with status 200."""
        return self.status == 200

    def rate(self) -> float:
        """Answers (status 200) a second, from the first request to the last answer."""
        return float(self.answered.sum() / (self.ended.max() - self.began.min()))

    def quantiles_ms(self, *shares: float) -> list[float]:
        """Latencies of the answers (status 200), milliseconds; NaN without any."""
        if not self.answered.any():
            return [float("nan")] * len(shares)
        return [float(value) * 1e3 for value in np.quantile(self.seconds[self.answered], shares)]

    def worst_gap_ms(self) -> float:
        """The longest time in which nothing was answered, milliseconds."""
        ends = np.sort(self.ended[self.answered])
        return float(np.diff(ends).max() * 1e3) if len(ends) > 1 else float("nan")

    def counts(self) -> dict[str, int]:
        """Requests by status."""
        names = {LOST: "lost", UNANSWERED: "unanswered"}
        values, counts = np.unique(self.status, return_counts=True)
        return {names.get(int(v), str(int(v))): int(n) for v, n in zip(values, counts, strict=True)}


@dataclass
class Load:
    """A run of load on `address` (host, port): started by `start`, waited for by `records`."""

    address: tuple[str, int]
    requests: Sequence[Request]
    connections: int
    seconds: float
    rate: float | None = None
    retry: bool = False
    seed: int = 0
    _folder: Any = field(default=None, repr=False)
    _process: Any = field(default=None, repr=False)

    def start(self) -> Load:
        """Begin in a process of its own; returns at once."""
        self._folder = tempfile.TemporaryDirectory(prefix="load-")
        plan = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        plan["requests"] = [asdict(request) for request in self.requests]
        path = Path(self._folder.name) / "plan.json"
        path.write_text(json.dumps(plan), encoding="utf-8")
        self._process = subprocess.Popen([sys.executable, __file__, path, path.with_name("records.npz")])
        return self

    def records(self) -> Records:
        """Wait for its end. Raises RuntimeError where the process failed."""
        try:
            if self._process.wait():
                raise RuntimeError(f"the load generator ended with {self._process.returncode}")
            with np.load(Path(self._folder.name) / "records.npz", allow_pickle=False) as file:
                told = json.loads(str(file["told"]))
                columns = {name: file[name] for name in file.files if name not in ("told", "digests")}
                return Records(**columns, digests=[str(one) for one in file["digests"]], told=told)
        finally:
            self._folder.cleanup()

    def run(self) -> Records:
        """Start, and wait for the end."""
        return self.start().records()


class Run:
    """All connections of one plan, and what they wrote down."""

    def __init__(self, plan: dict[str, Any]) -> None:
        host, port = plan["address"]
        self.host, self.port = str(host), int(port)
        self.requests = [Request(**one) for one in plan["requests"]]
        self.wires = [request.wire(f"{host}:{port}") for request in self.requests]
        self.order = list(range(len(self.wires)))
        random.Random(plan["seed"]).shuffle(self.order)  # noqa: S311  which request when, no secret
        self.n_connections, self.rate, self.retry = plan["connections"], plan["rate"], plan["retry"]
        self.seconds = plan["seconds"]
        self.began, self.lasted = array("d"), array("d")
        self.numbers = {name: array("i") for name in ("status", "request", "body", "tries")}
        self.bodies: dict[bytes, int] = {}
        self.told: dict[str, Any] = {}
        self.turn = 0

    async def run(self) -> None:
        """Until the time is over and every connection has its answer."""
        loop = asyncio.get_running_loop()
        self.start = time.perf_counter()
        self.until = self.start + self.seconds
        connections = [Connection(self, number, loop) for number in range(self.n_connections)]
        for connection in connections:
            connection.connect()
        ended = [connection.ended for connection in connections]
        await asyncio.wait(ended, timeout=self.seconds + GRACE_S)
        for connection in connections:
            connection.give_up()

    def next_request(self) -> int:
        """Whose turn it is."""
        self.turn += 1
        return self.order[self.turn % len(self.order)]

    def write_down(
        self, began: float, *, status: int, request: int, tries: int, content: bytes | None, later: bool
    ) -> None:
        """One request is over."""
        self.began.append(began)
        self.lasted.append(time.perf_counter() - began)
        body = -1 if content is None else self.bodies.setdefault(content, len(self.bodies))
        for name, value in (("status", status), ("request", request), ("body", body), ("tries", tries)):
            self.numbers[name].append(value)
        if status != 200 and str(status) not in self.told:
            text = (content or b"")[:300].decode(errors="replace")
            self.told[str(status)] = {"body": text, "retry_after": later}

    def save(self, path: Path) -> None:
        """Arrays alone, nothing pickled."""
        np.savez(
            path,
            began=np.array(self.began),
            seconds=np.array(self.lasted),
            digests=np.array([hashlib.sha256(body).hexdigest() for body in self.bodies], dtype="U64"),
            told=np.array(json.dumps(self.told)),
            **{name: np.array(values, dtype=np.int32) for name, values in self.numbers.items()},
        )


class Connection(asyncio.Protocol):
    """One keep-alive connection, made anew when it breaks."""

    def __init__(self, run: Run, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self.run, self.number, self.loop = run, number, loop
        self.ended: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport | None = None
        self.request: int | None = None  # what is in flight
        self.began, self.tries, self.rounds = 0.0, 0, 0
        self.after_close: Callable[[], Any] | None = None  # what to do once a closed connection is gone
        self.tasks: set[asyncio.Task[Any]] = set()

    def connect(self) -> None:
        """In a task of its own; `connection_made` goes on."""
        task = self.loop.create_task(self._connect())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect(self) -> None:
        try:
            await self.loop.create_connection(lambda: self, self.run.host, self.run.port)
        except OSError:
            if self.request is None:
                self.request, self.began, self.tries = self.run.next_request(), time.perf_counter(), 1
            self.loop.call_later(CONNECT_PAUSE_S, self._failed)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Go on with what was in flight, or with the next."""
        self.transport = cast(asyncio.Transport, transport)
        self._reset()
        if self.request is None:
            self._next()
        else:
            self.transport.write(self.run.wires[self.request])

    def _reset(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.parts: list[bytes] = []
        self.later = False

    def _next(self) -> None:
        now, due = time.perf_counter(), 0.0
        if self.run.rate is not None:
            place = self.number + self.rounds * self.run.n_connections
            due = self.run.start + place / self.run.rate
        self.rounds += 1
        if max(now, due) >= self.run.until:
            self._close()
        elif due > now:
            self.loop.call_later(due - now, self._send, due)
        else:
            self._send(due or now)

    def _send(self, began: float) -> None:
        self.request, self.began, self.tries = self.run.next_request(), began, 1
        if self.transport is None or self.transport.is_closing():
            self.connect()
        else:
            self.transport.write(self.run.wires[self.request])

    def data_received(self, data: bytes) -> None:
        """Feed the parser; it calls the three methods below."""
        if b"\nretry-after:" in data.lower():
            self.later = True
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        """Part of a body."""
        self.parts.append(body)

    def on_message_complete(self) -> None:
        """An answer is whole."""
        status, stays = self.parser.get_status_code(), self.parser.should_keep_alive()
        content, later = b"".join(self.parts), self.later
        self._reset()
        if status >= 500 and self._may_retry():
            go_on: Callable[[], Any] = partial(self.loop.call_later, RETRY_PAUSE_S, self._again)
        else:
            self._over(status, content, later=later)
            go_on = self._go_on
        if stays:
            go_on()
        else:
            self.after_close = go_on
            cast(asyncio.Transport, self.transport).close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Between two requests a server may close; with one in flight it is lost."""
        self.transport = None
        go_on, self.after_close = self.after_close, None
        if go_on is not None:
            go_on()
        elif self.request is not None:
            self._failed()

    def _failed(self) -> None:
        if self._may_retry():
            self.loop.call_later(RETRY_PAUSE_S, self._again)
        elif not self.ended.done():
            self._over(LOST, None, later=False)
            self._go_on()

    def _may_retry(self) -> bool:
        first = self.request is not None and self.tries == 1
        return first and self.run.retry and self.run.requests[cast(int, self.request)].method == "GET"

    def _again(self) -> None:
        self.tries += 1
        if self.transport is None or self.transport.is_closing():
            self.connect()
        else:
            self.transport.write(self.run.wires[cast(int, self.request)])

    def _over(self, status: int, content: bytes | None, *, later: bool) -> None:
        request, self.request = cast(int, self.request), None
        self.run.write_down(
            self.began, status=status, request=request, tries=self.tries, content=content, later=later
        )

    def _go_on(self) -> None:
        if self.transport is None and time.perf_counter() < self.run.until:
            self.connect()
        else:
            self._next()

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()
        if not self.ended.done():
            self.ended.set_result(None)

    def give_up(self) -> None:
        """The run is over: what is still in flight was never answered."""
        if self.request is not None and not self.ended.done():
            self.run.write_down(
                self.began,
                status=UNANSWERED,
                request=self.request,
                tries=self.tries,
                content=None,
                later=False,
            )
        self.request = None
        self._close()


def main() -> None:
    """Run the plan of the first argument, write the records to the second."""
    plan, out = (Path(argument) for argument in sys.argv[1:3])
    run = Run(json.loads(plan.read_text("utf-8")))
    uvloop.run(run.run())
    run.save(out)


if __name__ == "__main__":
    main()
