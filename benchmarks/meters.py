"""What counting a request costs: nightrank's meters beside Ray's own Counter and Histogram, in one actor.

    make bench
    python benchmarks/meters.py

Each figure is the best of 30 rounds of 5,000 calls; the ratio is to the meters. Ray's agent pays for every
observation of a Histogram a second time, which is not in here. The last line is what one push of the meters to Ray
takes, every two seconds, with as many series as the service has when every route and source is in use.
"""

from __future__ import annotations

import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from made_runs import machine

from nightrank.cluster.local import applied_env, local_cluster
from nightrank.cluster.session import joined

ROUTE = "/v1/users/{user_id}/recommendations"
SOURCES = ("precomputed", "live", "fold_in", "popular", "features", None)
N_CALLS, N_ROUNDS, N_ROUTES = 5_000, 30, 6


def best_us(call: Callable[[], object], *, n_calls: int = N_CALLS) -> float:
    """Microseconds of one call, in the best round."""
    return min(timeit.repeat(call, number=n_calls, repeat=N_ROUNDS)) / n_calls * 1e6


def measured() -> dict[str, float]:
    """Runs in an actor: elsewhere Ray's metrics go nowhere."""
    from ray.util.metrics import Counter, Histogram

    from nightrank.service.meters import Meters
    from nightrank.service.prometheus import LE, Prometheus

    meters = Meters()
    labels = ("route", "source", "status")
    tags = {"route": ROUTE, "source": "precomputed", "status": "200"}
    counter = Counter("bench_requests", tag_keys=labels)
    histogram = Histogram("bench_seconds", boundaries=[float(le) for le in LE.values()], tag_keys=labels)
    prometheus = Prometheus(meters)

    def count(route: str = ROUTE, source: str | None = "precomputed") -> None:
        meters.answered(route=route, source=source, status=200, seconds=0.0012)

    def push() -> None:
        for place in range(N_ROUTES):
            for source in SOURCES:
                count(f"/{place}", source)
        prometheus.push()

    return {
        "Meters.answered": best_us(count),
        "Ray's Counter.inc": best_us(lambda: counter.inc(1, tags)),
        "Ray's Histogram.observe": best_us(lambda: histogram.observe(0.0012, tags)),
        f"one push of {N_ROUTES * len(SOURCES)} series": best_us(push, n_calls=10),
    }


def main() -> None:
    """One table on stdout."""
    print(f"{machine()}, no seed: nothing is drawn")
    with (
        tempfile.TemporaryDirectory(prefix="nr-bench-") as home,
        local_cluster(home=Path(home), num_cpus=1) as cluster,
        applied_env(cluster),
        joined(),
    ):
        import ray

        found = ray.get(ray.remote(num_cpus=0)(measured).remote())
    print("| call | us | ratio |\n|---|---|---|")
    for name, us in found.items():
        print(f"| {name} | {us:.2f} | {us / found['Meters.answered']:.1f} |")


if __name__ == "__main__":
    main()
