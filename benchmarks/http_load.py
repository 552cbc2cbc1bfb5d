"""Requests a second and latency of the service under normal load, beside the least that the same servers could do.

    make bench
    python benchmarks/http_load.py --connections 1 16 64 256 --rounds 5 --seconds 5

One cluster of 2 CPUs (Serve with HAProxy), one replica each. The peers answer the same paths with the same bytes and
headers: `raw` is a bare ASGI callable as a deployment in the same cluster (`raw_asgi.py`), `uvicorn` is the package's
own ASGI application under plain uvicorn (uvloop, httptools), one process. Every round asks all of them in turn, and
every ratio is that of one round; a table has the median of the rounds and their range. The load generator
(`http_client.py`) is a process of its own on the same CPUs and takes its share of them, from each alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path

from http_client import Load, Records, Request
from http_served import Served, list_requests, made_store, plain_uvicorn, service, told, warm
from made_runs import machine

HEADER = "| connections | target | requests/s | p50, ms | p99, ms | p99.9, ms | requests/s beside raw |"
SERVICE, RAW, UVICORN = "precomputed", "raw ASGI, same bytes", "plain uvicorn"
PREFIX = "/raw"


def store_answers(served: Served, requests: list[Request], file: Path) -> None:
    """What the service answers, for the peer to repeat."""
    kept = {}
    for request in requests:
        status, headers, body = served.ask(request.path)
        if status != 200:
            raise SystemExit(f"{request.path}: status {status}, expected 200")
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


def measure(targets: Mapping[str, Load]) -> dict[str, Records]:
    """One round: each target in turn."""
    found = {}
    for name, load in targets.items():
        found[name] = load.run()
        if found[name].counts().keys() != {"200"}:
            raise SystemExit(f"{name}: {told(found[name])}, expected 200 alone")
    return found


def same_bytes(rounds: Mapping[str, Records], targets: Mapping[str, Load]) -> None:
    """Stops where two targets gave different bytes for a path."""
    seen: dict[str, str] = {}
    for name, records in rounds.items():
        for request, body in zip(records.request.tolist(), records.body.tolist(), strict=True):
            path = targets[name].requests[request].path.removeprefix(PREFIX)
            if seen.setdefault(path, records.digests[body]) != records.digests[body]:
                raise SystemExit(f"{name} gives other bytes for {path}")


def rows(n: int, rounds: list[dict[str, Records]]) -> list[str]:
    """The table's lines for one number of connections."""
    lines = []
    for name in rounds[0]:
        each = [one[name] for one in rounds]
        columns = zip(*(one.quantiles_ms(0.5, 0.99, 0.999) for one in each), strict=True)
        p50, p99, p999 = (statistics.median(values) for values in columns)
        rate = statistics.median(one.rate() for one in each)
        ratios = sorted(one[name].rate() / one[RAW].rate() for one in rounds)
        beside = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {n} | {name} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {p999:.1f} | {beside} |")
    return lines


def main() -> None:
    """A table by number of connections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each target in each round")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--factors", type=int, default=64)
    options = parser.parse_args()
    shape = {"users": options.users, "items": options.items, "factors": options.factors}
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        made_store(folder, **shape)
        requests = list_requests(options.users)
        with service(folder, folder / "store") as served:
            warm(served, requests)
            store_answers(served, requests, folder / "answers.json")
            add_raw(served, folder / "answers.json")
            with plain_uvicorn("--store", str(folder / "store")) as address:
                report(served, address, requests, options)


def report(
    served: Served, uvicorn: tuple[str, int], requests: list[Request], options: argparse.Namespace
) -> None:
    """Measure and print."""
    raw = [Request(PREFIX + request.path) for request in requests]
    print(
        f"{machine()}, seed 0\n{options.users:,} users x {options.items:,} items, {options.factors} factors, k=10; "
        f"{options.rounds} rounds of {options.seconds:g} s each\n\n{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}"
    )
    for n in options.connections:
        timing = {"connections": n, "seconds": options.seconds}
        targets = {
            RAW: Load(served.address, raw, **timing),
            SERVICE: Load(served.address, requests, **timing),
            UVICORN: Load(uvicorn, requests, **timing),
        }
        rounds = [measure(targets) for _ in range(options.rounds)]
        same_bytes(rounds[0], targets)
        print("\n".join(rows(n, rounds)), flush=True)


if __name__ == "__main__":
    main()
