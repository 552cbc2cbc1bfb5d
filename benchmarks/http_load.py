"""Requests a second and latency of the service under normal load, beside the least that the same servers could do.

    make bench
    python benchmarks/http_load.py --connections 1 16 64 256 --rounds 5 --seconds 5

One cluster of 2 CPUs (Serve with HAProxy), one replica each. The peers answer the same paths with the same bytes and
headers: `raw` is a bare ASGI callable as a deployment in the same cluster (`raw_asgi.py`), `plain uvicorn` the
package's own ASGI application without Serve (uvloop, httptools), one process. Every round asks all of them in turn,
and every ratio is that of one round; a table has the median of the rounds and their range. Requests a second are
answers (200) alone; more live requests at once than may wait are refused. The load generator (`http_client.py`) is a
process of its own on the same CPUs and takes its share of them, from each alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
from http_client import Load, Records, Request
from http_served import Served, list_requests, live_requests, made_store, plain_uvicorn, service, told, warm
from made_runs import machine

HEADER = (
    "| connections | target | requests/s | p50, ms | p99, ms | p99.9, ms | requests/s beside raw | "
    "p50 beside precomputed | CPU of the server, ms/request |"
)
SERVICE, RAW, UVICORN = "precomputed", "raw ASGI, same bytes", "precomputed, plain uvicorn"
LIVE, FOLD_IN = "live (one item excluded)", "fold-in (three events, by POST)"
PREFIX = "/raw"
Peer = tuple[tuple[str, int], int]


def store_answers(served: Served, requests: list[Request], file: Path) -> None:
    """What the service answers, for the peer to repeat."""
    kept = {}
    for request in requests:
        status, headers, body = served.ask(request.path)
        if status != 200:
            raise SystemExit(f"{request.path}: status {status}, expected 200: {body.decode()}")
        names = [(name.lower(), value) for name, value in headers.items() if _ours(name)]
        kept[request.path.partition("?")[0]] = {"headers": names, "body": body.decode()}
    file.write_text(json.dumps(kept), encoding="utf-8")


def _ours(name: str) -> bool:
    """Headers of the application; the servers add the others by themselves."""
    return name.lower() not in ("date", "server", "connection", "x-request-id")


def add_raw(served: Served, file: Path) -> None:
    """Deploy the peer beside the service, with the same settings of its deployment."""
    options = {name: value for name, value in served.deployment.items() if name != "user_config"}
    application = {
        "name": "raw",
        "route_prefix": PREFIX,
        "import_path": "raw_asgi:build",
        "args": {"file": str(file)},
        "deployments": [{**options, "name": "Raw"}],
    }
    served.raw["applications"].append(application)
    served.deploy()


@dataclass(frozen=True)
class Target:
    """Something that is asked, and the processes that answer."""

    load: Load
    pids: list[int]


@dataclass(frozen=True)
class Round:
    """What one target did in one round. cpu_ms: of its process, for one request."""

    records: Records
    cpu_ms: float


def measure(targets: Mapping[str, Target]) -> dict[str, Round]:
    """One round: each target in turn."""
    found = {}
    for name, target in targets.items():
        before = cpu_s(target.pids)
        records = target.load.run()
        fine = {"200", "503"} if name in (LIVE, FOLD_IN) else {"200"}
        if not records.counts().keys() <= fine:
            raise SystemExit(f"{name}: {told(records)}, expected 200 alone; {records.told}")
        found[name] = Round(records, (cpu_s(target.pids) - before) * 1e3 / len(records.status))
    return found


def cpu_s(pids: list[int]) -> float:
    """Seconds of CPU that processes have used, their threads included."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(one.user + one.system for one in times))


def same_bytes(rounds: Mapping[str, Round], targets: Mapping[str, Target]) -> None:
    """Stops where two targets gave different bytes for a path of precomputed answers."""
    seen: dict[str, str] = {}
    for name in (SERVICE, RAW, UVICORN):
        records = rounds[name].records
        for request, body in zip(records.request.tolist(), records.body.tolist(), strict=True):
            path = targets[name].load.requests[request].path.removeprefix(PREFIX)
            if seen.setdefault(path, records.digests[body]) != records.digests[body]:
                raise SystemExit(f"{name} gives other bytes for {path}")


def rows(n: int, rounds: list[dict[str, Round]]) -> list[str]:
    """The table's lines for one number of connections."""
    lines = []
    for name in rounds[0]:
        each = [one[name].records for one in rounds]
        columns = zip(*(one.quantiles_ms(0.5, 0.99, 0.999) for one in each), strict=True)
        p50, p99, p999 = (statistics.median(values) for values in columns)
        rate = statistics.median(one.rate() for one in each)
        beside_raw = spread([one[name].records.rate() / one[RAW].records.rate() for one in rounds])
        beside = spread([half(one[name].records) / half(one[SERVICE].records) for one in rounds])
        cpu = statistics.median(one[name].cpu_ms for one in rounds)
        share = statistics.median(1 - float(one.answered.mean()) for one in each)
        refused = f"; {share:.0%} refused with 503" if share else ""
        lines.append(
            f"| {n} | {name}{refused} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {p999:.1f} | {beside_raw} | {beside} | "
            f"{cpu:.2f} |"
        )
    return lines


def half(records: Records) -> float:
    """The median latency, ms."""
    return records.quantiles_ms(0.5)[0]


def spread(ratios: list[float]) -> str:
    """The median and the range."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """A table by number of connections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each target in each round")
    parser.add_argument("--replicas", type=int, default=1, help="of the service and of its peer")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--factors", type=int, default=64)
    options = parser.parse_args()
    shape = {"users": options.users, "items": options.items, "factors": options.factors}
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        made_store(folder, **shape)
        requests = list_requests(options.users)
        with service(folder, folder / "store", replicas=options.replicas) as served:
            warm(served, requests)
            store_answers(served, requests, folder / "answers.json")
            add_raw(served, folder / "answers.json")
            with plain_uvicorn("--store", str(folder / "store")) as uvicorn:
                report(served, uvicorn, requests, options)


def report(served: Served, uvicorn: Peer, requests: list[Request], options: argparse.Namespace) -> None:
    """Measure and print."""
    live, folded = (live_requests(options.users, options.items, fold_in=which) for which in (False, True))
    warm(served, [*live, *folded])
    ours, raw = served.replicas(), served.replicas("raw", "Raw")
    print(
        f"{machine()}, seed 0\n{options.users:,} users x {options.items:,} items, {options.factors} factors, k=10; "
        f"{options.replicas} replica(s); {options.rounds} rounds of {options.seconds:g} s each\n\n"
        f"{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}"
    )
    for n in options.connections:

        def target(address: tuple[str, int], asked: list[Request], pids: list[int], n: int = n) -> Target:
            return Target(Load(address, asked, connections=n, seconds=options.seconds), pids)

        targets = {
            RAW: target(served.address, [Request(PREFIX + request.path) for request in requests], raw),
            SERVICE: target(served.address, requests, ours),
            UVICORN: target(uvicorn[0], requests, [uvicorn[1]]),
            LIVE: target(served.address, live, ours),
            FOLD_IN: target(served.address, folded, ours),
        }
        rounds = [measure(targets) for _ in range(options.rounds)]
        same_bytes(rounds[0], targets)
        print("\n".join(rows(n, rounds)), flush=True)


if __name__ == "__main__":
    main()
