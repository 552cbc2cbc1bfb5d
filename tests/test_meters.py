"""What a replica counts: quantiles within their promise, counts that add up, and the same numbers for Prometheus."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from nightrank.service.meters import N_BUCKETS, Meters, bucket, edge_s, fallback_share, quantile_s
from nightrank.service.prometheus import COUNTERS, LE, LE_ALL, totals
from nightrank.service.stats import Stats

ROUTE = "/v1/users/{user_id}/recommendations"


def buckets_of(seconds: np.ndarray) -> list[int]:
    found = [0] * N_BUCKETS
    for one in seconds:
        found[bucket(float(one))] += 1
    return found


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9, 0.99, 0.999, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_a_quantile_is_within_five_percent(share: float, seed: int) -> None:
    """An operator reads a latency, not the width of a bucket."""
    seconds = np.exp(np.random.default_rng(seed).uniform(np.log(2e-5), np.log(90.0), 5000))
    exact = float(np.quantile(seconds, share, method="inverted_cdf"))
    found = quantile_s(buckets_of(seconds), share)
    assert found is not None
    assert abs(found / exact - 1.0) < 0.05


def test_every_latency_has_a_bucket() -> None:
    """A clock that stands still and a request that hangs are counted, not an error."""
    assert bucket(0.0) == bucket(-1e-9) == bucket(9e-6) == 0
    assert bucket(1e-5) == 1
    assert bucket(1e9) == N_BUCKETS - 1
    for place in range(1, N_BUCKETS - 1):
        assert bucket(edge_s(place) * 0.999) == place
        assert bucket(edge_s(place) * 1.001) == place + 1 or place + 1 == N_BUCKETS


def test_without_requests_there_are_no_quantiles() -> None:
    """A replica that has just started says null, not 0 ms and no fallback at all."""
    told = Stats.model_validate(Meters().told() | {"stages": {}}, strict=True)
    assert quantile_s([0] * N_BUCKETS, 0.5) is None
    assert told.latency_ms["all"].p50 is None
    assert told.fallback_share is None
    assert told.release_age_s is None


def test_counts_add_up() -> None:
    """Each request is in one route and one status; each list, of a batch too, in one source."""
    meters = Meters(replica="abc")
    for source, status in (("precomputed", 200), ("precomputed", 200), ("popular", 200), (None, 422)):
        meters.answered(route=ROUTE, source=source, status=status, seconds=0.002)
    meters.answered(route="/v1/recommendations", source=None, status=200, seconds=0.2)
    meters.recommended("live", 3)
    meters.recommended("popular")
    meters.swapped("done")
    meters.swapped("refused")
    meters.activated("refused")
    meters.holds("one", created=datetime.now(UTC) - timedelta(hours=5))
    told = json.loads(json.dumps(meters.told()))
    assert Stats.model_validate(told | {"stages": {}}).model_dump(mode="json", exclude={"stages"}) == told
    assert told["requests"] == {
        "total": 5,
        "by_route": {"/v1/recommendations": 1, ROUTE: 4},
        "by_status": {"200": 4, "422": 1},
    }
    assert told["by_source"] == {"live": 3, "popular": 2, "precomputed": 2}
    assert told["fallback_share"] == 2 / 7
    assert set(told["latency_ms"]) == {"all", "precomputed", "popular"}
    assert 1.9 < told["latency_ms"]["precomputed"]["p50"] < 2.1
    assert 190 < told["latency_ms"]["all"]["p99"] < 210
    assert told["swaps"] == {"done": 1, "refused": 1}
    assert told["activations"] == {"done": 0, "refused": 1}
    assert (told["replica"], told["release"]) == ("abc", "one")
    assert 17_999 < told["release_age_s"] < 18_100


def test_the_share_of_popular_is_of_all_lists() -> None:
    """The figure that tells an operator that users meet a service which does not know them."""
    assert fallback_share({"popular": 1, "live": 2, "precomputed": 1}) == 1 / 4
    assert fallback_share({"live": 2}) == 0.0


def test_prometheus_gets_the_same_numbers() -> None:
    """`le` counts what was no slower, the last one counts everything: what histogram_quantile expects."""
    meters = Meters()
    seconds = np.exp(np.random.default_rng(7).uniform(np.log(2e-5), np.log(50.0), 2000))
    for place, one in enumerate(seconds):
        meters.answered(
            route=ROUTE, source="live" if place % 4 else None, status=200 + place % 2, seconds=float(one)
        )
    found = totals(meters)
    assert {name for name, _ in found} == set(COUNTERS)
    assert all(len(labels) == len(COUNTERS[name][0]) for name, labels in found)
    live = seconds[np.arange(2000) % 4 != 0]
    for place, le in LE.items():
        assert found["nightrank_request_seconds_bucket", (ROUTE, "live", le)] == (live < edge_s(place)).sum()
    assert found["nightrank_request_seconds_bucket", (ROUTE, "live", LE_ALL)] == live.size
    assert found["nightrank_request_seconds_sum", (ROUTE, "live")] == pytest.approx(live.sum())
    assert found["nightrank_requests", (ROUTE, "", "200")] == 500
    assert found["nightrank_recommendations", ("live",)] == live.size
    assert [float(le) for le in LE.values()] == sorted(float(le) for le in LE.values())
    assert (min(LE.values(), key=float), max(LE.values(), key=float)) == ("0.0001", "10")


def test_reading_beside_counting_loses_nothing() -> None:
    """Statistics and Prometheus read from other threads while the event loop counts."""
    meters, ended, seen = Meters(), threading.Event(), []

    def read() -> None:
        while not ended.is_set():
            seen.append(sum(totals(meters).values()) + meters.told()["requests"]["total"])

    reader = threading.Thread(target=read)
    reader.start()
    for place in range(5000):
        meters.answered(route=f"/{place % 50}", source=None, status=200 + place % 20, seconds=0.001)
    ended.set()
    reader.join()
    assert meters.told()["requests"]["total"] == 5000
    assert seen == sorted(seen)
