"""Noticing that a cluster which this process only joined is gone: its head is asked every few seconds.

A cluster that was started here tells by itself (`LocalCluster.wait`). Refuses to call a head dead for one silence.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from typing import NoReturn

from nightrank.errors import ClusterError

_PERIOD_S = 5.0
_TIMES = 3  # a busy head misses one


def watch(dashboard_url: str, *, period_s: float = _PERIOD_S) -> NoReturn:
    """Stay as long as the head behind this dashboard answers; raises ClusterError after three silences in a row."""
    silences = 0
    while silences < _TIMES:
        time.sleep(period_s)
        silences = 0 if _is_healthy(f"{dashboard_url.rstrip('/')}/api/gcs_healthz") else silences + 1
    raise ClusterError(
        f"the Ray cluster at {dashboard_url} does not answer any more, so the service is gone too; its logs are on "
        "its head, by default in /tmp/ray/session_latest/logs"
    )


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310  the dashboard that was named
            return bool(answer.status < 500)
    except urllib.error.HTTPError as error:
        return error.code < 500  # whatever stands in front lets nobody in, but somebody is there
    except OSError:
        return False
