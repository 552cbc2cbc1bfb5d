"""Runs one command and ends every process that came out of it, whatever happens to the process that asked.

A script of its own (`python -P supervisor.py DIRECTORY CLUSTER_ID COMMAND...`), because only a parent can
collect orphans: on Linux it is a child subreaper, so a worker or HAProxy whose parent died becomes its child.
It stops when its standard input says so or closes, also because the process at the other end was killed.
Refuses to touch a process that is neither its descendant nor carries the cluster's id in its environment.
Imports neither nightrank nor Ray: it must start at once, and run from any path.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ID_VARIABLE = "NIGHTRANK_CLUSTER_ID"
NODE_LOG = "ray-start.log"
_PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
_GRACE_S = 2.0  # Serve's workers outlast any wait we would want; what reacts to SIGTERM does so at once
_KILL_S = 15.0
_POLL_S = 0.05


def members(cluster_id: str, *, tree: psutil.Process | None = None) -> list[psutil.Process]:
    """Living processes with this id in their environment, and `tree`'s descendants; never the caller."""
    found = {process.pid: process for process in (tree.children(recursive=True) if tree is not None else [])}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone, or not ours to read
            if process.environ().get(ID_VARIABLE) == cluster_id:
                found[process.pid] = process
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _is_alive(process)]


def end(cluster_id: str, *, tree: psutil.Process | None = None) -> list[int]:
    """SIGTERM, then SIGKILL, to every member until none is left; the pids that even that left alive."""
    for number, patience_s in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _KILL_S)):
        deadline = time.monotonic() + patience_s
        told: set[int] = set()
        while alive := members(cluster_id, tree=tree):
            for process in alive:
                if process.pid not in told:  # the list grows: a worker may spawn while it is being stopped
                    told.add(process.pid)
                    with contextlib.suppress(psutil.Error):
                        process.send_signal(number)
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
            if tree is not None:
                _reap()
    return [process.pid for process in members(cluster_id, tree=tree)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _reap() -> dict[int, int]:
    """Collect every child that has ended, adopted ones included: pid -> exit code, negative for a signal."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _told_to_stop(timeout_s: float) -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], timeout_s)
    return bool(readable)  # a line or the end of the stream: both mean stop


class _Supervisor:
    def __init__(self, directory: Path, cluster_id: str) -> None:
        self.directory, self.cluster_id = directory, cluster_id
        self.terminated = False
        self.tree = psutil.Process()

    def run(self, command: list[str]) -> None:
        with (self.directory / NODE_LOG).open("wb") as log:
            root = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        code = self._watch(root.pid)
        end(self.cluster_id, tree=self.tree)
        if code is not None:
            with contextlib.suppress(OSError):  # nobody may be left to read it
                os.write(sys.stdout.fileno(), f"{code}\n".encode())
            while not (self.terminated or _told_to_stop(0.2)):  # whoever asked may want the logs first
                pass
        shutil.rmtree(self.directory, ignore_errors=True)

    def _watch(self, root: int) -> int | None:
        """The root's exit code, or None when told to stop before it ended."""
        while not (self.terminated or _told_to_stop(0.1)):
            if (code := _reap().get(root)) is not None:
                return code
        return None

    def on_signal(self, *_: object) -> None:
        self.terminated = True


def main() -> None:
    directory, cluster_id, *command = sys.argv[1:]
    _adopt_orphans()
    supervisor = _Supervisor(Path(directory), cluster_id)
    signal.signal(signal.SIGINT, lambda *_: None)  # a handler ends at exec; SIG_IGN would reach every job
    signal.signal(signal.SIGTERM, supervisor.on_signal)
    signal.signal(signal.SIGHUP, supervisor.on_signal)
    supervisor.run(command)


if __name__ == "__main__":
    main()
