"""Finding worker processes of one cluster, to kill them; other clusters of the host are left alone."""

from __future__ import annotations

from collections.abc import Iterator

import psutil

from nightrank.cluster.local import LocalCluster


def workers(cluster: LocalCluster, *names: str) -> Iterator[tuple[str, psutil.Process]]:
    """(title, process) of the cluster's Ray workers that are running something named so."""
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        if not title.startswith("ray::") or not any(name in title for name in names):
            continue
        try:
            ours = process.environ().get("RAY_TMPDIR") == cluster.env["RAY_TMPDIR"]
        except psutil.Error:
            continue
        if ours:
            yield title, process
