"""What this replica has answered since it started: counts by route, source and status, and latencies in buckets.

Plain Python, since it runs on the event loop once per request; `nightrank.service.prometheus` carries the same
numbers to Ray's metrics. `told()` is what GET /v1/stats says, of this replica alone. Refuses to keep anything about
a user.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

# A bucket's upper edge is 10 ** (1/24) of its lower one, and is told as its geometric middle: at most 5 % beside.
PER_DECADE = 24
N_BUCKETS = 7 * PER_DECADE + 1  # from 10 us to 100 s; what lies outside falls into the first or the last one
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
FALLBACK = "popular"

_SHORTEST_S = 1e-5
_OFFSET = 5 * PER_DECADE + 1
_HALF_A_BUCKET = math.pow(10.0, 0.5 / PER_DECADE)


@dataclass
class Latencies:
    """How many requests fell into each bucket; `total_s` is the exact sum."""

    buckets: list[int] = field(default_factory=lambda: [0] * N_BUCKETS)
    total_s: float = 0.0


class Meters:
    """`answered` and `recommended` belong to the event loop, `swapped` and `holds` to one other thread, the holder's,
    `activated` to the one of activations; what is read may be read from any."""

    def __init__(self, *, replica: str | None = None) -> None:
        self.replica = replica
        self.since = datetime.now(UTC)
        self.requests: dict[tuple[str, str | None, int], Latencies] = {}
        self.lists: dict[str, int] = {}
        self.swaps: dict[str, int] = {"done": 0, "refused": 0}
        self.activations: dict[str, int] = {"done": 0, "refused": 0}
        self.held: str | None = None
        self._created: float | None = None

    def answered(self, *, route: str, source: str | None, status: int, seconds: float) -> None:
        """One request, from its start to the last byte sent; with a source it gave one list of recommendations.

        route: the template, never the path as it came, or every path would be counted apart.
        """
        key = (route, source, status)
        series = self.requests.get(key)
        if series is None:
            series = self.requests[key] = Latencies()
        series.buckets[bucket(seconds)] += 1
        series.total_s += seconds
        if source is not None:
            self.recommended(source)

    def recommended(self, source: str, n: int = 1) -> None:
        """Lists of a batch, whose request has no source of its own."""
        self.lists[source] = self.lists.get(source, 0) + n

    def swapped(self, outcome: Literal["done", "refused"]) -> None:
        """A release was wanted and put in use, or refused; the first one counts too."""
        self.swaps[outcome] += 1

    def activated(self, outcome: Literal["done", "refused"]) -> None:
        """A call of `activate` moved CURRENT, or was refused, also after its caller had left."""
        self.activations[outcome] += 1

    def holds(self, release: str | None, *, created: datetime | None = None) -> None:
        """Which release answers from now on, and when it was made."""
        self.held, self._created = release, None if created is None else created.timestamp()

    @property
    def release_age_s(self) -> float | None:
        """Seconds since the release in use was made; None while there is none."""
        return None if self._created is None else max(0.0, time.time() - self._created)

    def told(self) -> dict[str, Any]:
        """The counts for GET /v1/stats, as `nightrank.service.stats.Stats` describes them."""
        requests = list(self.requests.items())
        return {
            "replica": self.replica,
            "since": self.since.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "release": self.held,
            "release_age_s": self.release_age_s,
            "requests": {
                "total": sum(sum(one.buckets) for _, one in requests),
                "by_route": _summed((route, one) for (route, _, _), one in requests),
                "by_status": _summed((str(status), one) for (_, _, status), one in requests),
            },
            "by_source": dict(sorted(self.lists.copy().items())),
            "fallback_share": fallback_share(self.lists.copy()),
            "latency_ms": _latencies(requests),
            "swaps": self.swaps.copy(),
            "activations": self.activations.copy(),
        }


def bucket(seconds: float) -> int:
    """The bucket of a latency; its number grows with it."""
    if seconds < _SHORTEST_S:
        return 0
    place = int(math.log10(seconds) * PER_DECADE + _OFFSET)
    return place if place < N_BUCKETS else N_BUCKETS - 1


def edge_s(place: int) -> float:
    """The latency that none in a bucket exceeds, but for the last one, which has no end."""
    return _SHORTEST_S * math.pow(10.0, place / PER_DECADE)


def quantile_s(buckets: list[int], share: float) -> float | None:
    """The latency that `share` of the requests did not exceed, within 5 %; None where there were none."""
    left = math.ceil(share * sum(buckets))
    if left == 0:
        return None
    for place, count in enumerate(buckets):
        left -= count
        if left <= 0:
            return edge_s(place) / _HALF_A_BUCKET
    raise AssertionError("unreachable: the buckets hold all of their sum")


def fallback_share(lists: Mapping[str, int]) -> float | None:
    """How much of what was recommended is the popular items; None where nothing was."""
    total = sum(lists.values())
    return lists.get(FALLBACK, 0) / total if total else None


def _summed(counted: Iterable[tuple[str, Latencies]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, series in counted:
        found[name] = found.get(name, 0) + sum(series.buckets)
    return dict(sorted(found.items()))


def _latencies(requests: list[tuple[tuple[str, str | None, int], Latencies]]) -> dict[str, Any]:
    """Quantiles of all requests, and of those that gave a list, by its source."""
    nothing = [0] * N_BUCKETS
    groups = {"all": nothing}
    for (_, source, _), series in requests:
        for name in ("all",) if source is None else ("all", source):
            groups[name] = list(map(operator.add, groups.get(name, nothing), series.buckets))
    return {
        name: {
            label: None if (found := quantile_s(buckets, share)) is None else round(found * 1000, 3)
            for label, share in QUANTILES.items()
        }
        for name, buckets in groups.items()
    }
