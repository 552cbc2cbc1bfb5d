"""The counts of Meters on Ray's Prometheus endpoint: what was added since the last time, every two seconds.

Refuses Ray's own Histogram: a call per request takes several times what all the counting does (benchmarks/meters.py),
and Ray's agent then replays every observation one by one in Python. Counters with a label `le` hold the same buckets,
at a cost that does not grow with the requests; `histogram_quantile` reads them.
"""

from __future__ import annotations

import logging
import threading
import time
from itertools import accumulate

from nightrank.service.meters import PER_DECADE, Meters, edge_s

log = logging.getLogger("nightrank.service")

EVERY_S = 2.0
YIELD_AFTER = (
    16  # additions, some 50 us: requests do not wait for the milliseconds that hundreds of them take
)
# name, labels beside Serve's own (application, deployment, replica), what it is; Ray puts `ray_` before the name and
# `_total` after that of a counter
COUNTERS: dict[str, tuple[tuple[str, ...], str]] = {
    "nightrank_requests": (("route", "source", "status"), "Requests answered"),
    "nightrank_recommendations": (("source",), "Lists given, each of a batch counted"),
    "nightrank_request_seconds_bucket": (
        ("route", "source", "le"),
        "Requests that took at most `le` seconds",
    ),
    "nightrank_request_seconds_sum": (("route", "source"), "Seconds that requests took"),
    "nightrank_swaps": (("outcome",), "Releases put in use or refused"),
    "nightrank_activations": (("outcome",), "Calls of activate that moved CURRENT or were refused"),
}
GAUGES: dict[str, str] = {
    "nightrank_release_age_seconds": "Seconds since the release in use was made; absent without one",
    "nightrank_release_held": "1 where a release is held, else 0",
}
# Four edges a decade, 0.1 ms to 10 s, each the upper edge of a bucket; then all that took longer.
LE = {place: f"{edge_s(place):.3g}" for place in range(PER_DECADE, 6 * PER_DECADE + 1, PER_DECADE // 4)}
LE_ALL = "+Inf"

Label = tuple[str, ...]


class Prometheus:
    """Ray's metrics for one replica's Meters; made inside the replica, whose name Serve adds."""

    def __init__(self, meters: Meters) -> None:
        from ray.serve import metrics

        self._meters = meters
        self._counters = {
            name: metrics.Counter(name, text, labels) for name, (labels, text) in COUNTERS.items()
        }
        self._gauges = {name: metrics.Gauge(name, text) for name, text in GAUGES.items()}
        self._sent: dict[tuple[str, Label], float] = {}

    def push(self) -> None:
        """Add what was counted since the last call, and set the gauges anew."""
        n_added = 0
        for (name, values), total in totals(self._meters).items():
            added = total - self._sent.get((name, values), 0)
            if added > 0:
                self._counters[name].inc(added, dict(zip(COUNTERS[name][0], values, strict=True)))
                self._sent[name, values] = total
                n_added += 1
                if n_added % YIELD_AFTER == 0:
                    time.sleep(0)  # without the GIL
        age_s = self._meters.release_age_s
        self._gauges["nightrank_release_held"].set(0 if age_s is None else 1, {})
        if age_s is not None:
            self._gauges["nightrank_release_age_seconds"].set(age_s, {})


def export(meters: Meters) -> None:
    """Push from now on, in a thread of its own; call it inside a replica."""
    prometheus = Prometheus(meters)
    threading.Thread(target=_loop, args=(prometheus,), name="nightrank-metrics", daemon=True).start()


def _loop(prometheus: Prometheus) -> None:
    told = False
    while True:
        time.sleep(EVERY_S)
        try:
            prometheus.push()
        except Exception:  # whatever it is, answers do not depend on it
            if not told:
                log.exception("metrics do not reach Ray; answers are not affected, and /v1/stats goes on")
            told = True


def totals(meters: Meters) -> dict[tuple[str, Label], float]:
    """Every counter's value so far, by metric and its labels' values."""
    found: dict[tuple[str, Label], float] = {}

    def add(name: str, labels: Label, value: float) -> None:
        found[name, labels] = found.get((name, labels), 0) + value

    for (route, source, status), series in list(meters.requests.items()):
        buckets, by = series.buckets.copy(), (route, source or "")
        add("nightrank_requests", (*by, str(status)), sum(buckets))
        add("nightrank_request_seconds_sum", by, series.total_s)
        up_to = list(accumulate(buckets))
        for place, le in LE.items():
            add("nightrank_request_seconds_bucket", (*by, le), up_to[place])
        add("nightrank_request_seconds_bucket", (*by, LE_ALL), up_to[-1])
    for source, n in meters.lists.copy().items():
        add("nightrank_recommendations", (source,), n)
    for outcome, n in meters.swaps.copy().items():
        add("nightrank_swaps", (outcome,), n)
    for outcome, n in meters.activations.copy().items():
        add("nightrank_activations", (outcome,), n)
    return found
