"""Clients that do harm, on purpose or not: those that send a byte a second, and those that send a megabyte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter

from http_client import Request

N_SLOW, PAUSE_S = 200, 1.0
MEGABYTE = 2**20
HEAD = "POST /v1/recommendations HTTP/1.1\r\nHost: slow\r\nContent-Type: application/json\r\n"
# What is sent at once, and what is sent a byte at a time.
SLOW = {
    "in the head": (b"GET /v1/users/1/recommendations HTTP/1.1\r\nHost: slow\r\n", b"X-Slow: " + b"a" * 4096),
    "in the body": (
        f"{HEAD}Content-Length: 4096\r\n\r\n".encode(),
        b'{"user_id": 1, "exclude": [' + b" " * 4096,
    ),
}


def big_bodies() -> dict[str, Request]:
    """A request of nearly 1 MB that is well, as large as the limit lets it be, and one of more."""
    ids = list(range(1, 10_000))  # with the user as many as the limit
    fine = json.dumps({"user_id": 1, "k": 10, "exclude": ids})
    fine += " " * (MEGABYTE - len(fine))
    large = fine + " "
    return {
        "1 MiB": Request("/v1/recommendations", method="POST", body=fine),
        "1 MiB and a byte": Request("/v1/recommendations", method="POST", body=large),
        "16 MiB": Request("/v1/recommendations", method="POST", body=" " * (16 * MEGABYTE)),
    }


def drip(address: tuple[str, int], request: tuple[bytes, bytes], *, seconds: float) -> str:
    """Hold `N_SLOW` slow connections for some seconds; how they ended, in words."""
    return asyncio.run(_drip(address, request, seconds=seconds))


async def _drip(address: tuple[str, int], request: tuple[bytes, bytes], *, seconds: float) -> str:
    until = time.perf_counter() + seconds
    ends = await asyncio.gather(*(_slow(address, request, until=until) for _ in range(N_SLOW)))
    return "; ".join(f"{n} {end}" for end, n in Counter(ends).most_common())


async def _slow(address: tuple[str, int], request: tuple[bytes, bytes], *, until: float) -> str:
    """How one connection ended."""
    began = time.perf_counter()
    try:
        reader, writer = await asyncio.open_connection(*address)
    except OSError:
        return "refused"
    first, rest = request
    reading = asyncio.ensure_future(reader.readline())
    end = "still open at the end"
    with contextlib.suppress(OSError):
        writer.write(first)
        for place in range(len(rest)):
            if reading.done() or time.perf_counter() > until:
                break
            writer.write(rest[place : place + 1])
            await writer.drain()
            await asyncio.wait([reading], timeout=PAUSE_S)
    if reading.done():
        with contextlib.suppress(OSError):
            status = reading.result().decode().strip() or "no answer"
            end = f"closed after {time.perf_counter() - began:.0f} s ({status})"
    reading.cancel()
    writer.close()
    return end
