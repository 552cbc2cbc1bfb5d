"""Threads for one kind of work that may hang: what hangs holds up nothing of another kind, and the queue is short."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from nightrank.service.refusal import RequestError

Answer = TypeVar("Answer")


class Threads:
    """busy: why somebody is sent away, in words. waiting: how many calls may wait for the threads."""

    def __init__(self, busy: str, *, threads: int, waiting: int) -> None:
        self._busy = busy
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="nightrank-steering")
        # Given back when the work ends, not when its caller leaves: a thread that hangs is taken all the same.
        self._places = threading.Semaphore(threads + waiting)

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """What `work` returns or raises. Raises RequestError, 503, where too many wait already."""
        if not self._places.acquire(blocking=False):
            raise RequestError(
                503,
                "overloaded",
                f"{self._busy}; try again in some seconds",
                headers={"retry-after": "5"},
            )
        future = self._pool.submit(work)
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)
