"""What clients notice when something goes wrong: a killed replica, a new release, too much load, a slow or a huge
request, a store that is gone.

    make bench
    python benchmarks/http_faults.py --only kill swap --seconds 30 --json found.json

One cluster of 2 CPUs as `make serve` starts it, a store with two releases, a load of plain requests at a fixed rate
(`http_client.py`; what is late counts from when it was due). Every case stands beside a control window: the same
load with nothing wrong. A gap is the longest time in which nothing was answered. The cases of hostile clients are in
`http_hostile.py`. Exits with 1 where something was lost that must not be; never for a time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import http_hostile
import numpy as np
import psutil
from http_client import Load, Records, Request
from http_served import Served, list_requests, live_requests, made_store, service, told, until, warm
from made_runs import machine

from nightrank.release.publish import activate
from nightrank.release.store import open_store

HEADER = "| case | answers | p50, ms | p99, ms | worst gap, ms | besides |"
RATE, CONNECTIONS = 300.0, 32
Row = dict[str, Any]


class Faults:
    """The cases: each method yields rows, a mapping with `case` and what was counted."""

    def __init__(
        self,
        served: Served,
        requests: list[Request],
        *,
        live: list[Request],
        releases: list[str],
        seconds: float,
    ) -> None:
        self.served, self.requests, self.live = served, requests, live
        self.releases, self.seconds = releases, seconds

    def load(self, *, seconds: float | None = None, retry: bool = False) -> Load:
        """The load that everybody else is."""
        return Load(
            self.served.address,
            self.requests,
            connections=CONNECTIONS,
            seconds=self.seconds if seconds is None else seconds,
            rate=RATE,
            retry=retry,
        )

    def replicas(self, n: int) -> None:
        """Have n of them."""
        if self.served.deployment["num_replicas"] != n:
            self.served.deployment["num_replicas"] = n
            self.served.deploy()
            warm(self.served, self.requests)

    def control(self, case: str) -> Iterator[Row]:
        """The same load with nothing wrong."""
        yield row(f"control, {case}", self.load().run())

    def kill(self) -> Iterator[Row]:
        """kill -9 of one replica of two, without and with one more try of a GET; then of the only one."""
        self.replicas(2)
        yield from self.control("two replicas")
        for retry in (False, True):
            yield self._killed("kill -9, one of two", retry=retry)
        self.replicas(1)
        yield self._killed("kill -9, the only one", retry=True)

    def _killed(self, case: str, *, retry: bool) -> Row:
        count = len(self.served.replicas())
        load = self.load(retry=retry).start()
        time.sleep(self.seconds / 3)
        pid = self.served.replicas()[0]
        os.kill(pid, signal.SIGKILL)
        until(lambda: not _lives(pid), "a killed replica to be gone")
        dead = time.perf_counter()
        until(lambda: self.served.replicas().count(pid) == 0, "Serve to see it")
        back = (
            until(lambda: len(self.served.replicas()) == count, "a new replica") + time.perf_counter() - dead
        )
        records = load.records()
        failed = ~records.answered
        beyond = int((failed & (records.began > dead)).sum())
        found = row(f"{case}, {'one retry' if retry else 'no retry'}", records)
        found |= {"lost_in_flight": int(failed.sum()) - beyond, "lost_beyond": beyond}
        found["tried_twice"] = int((records.tries > 1).sum())
        found["besides"] = (
            f"lost in flight {found['lost_in_flight']}, beyond {beyond}; tried twice {found['tried_twice']}; "
            f"{count} replicas again after {back:.1f} s"
        )
        return found

    def swap(self) -> Iterator[Row]:
        """CURRENT is moved three times under load; one replica, then two."""
        for n in (1, 2):
            self.replicas(n)
            word = "one replica" if n == 1 else "two replicas"
            for _ in range(2):
                yield from self.control(word)
                yield self._swapped(word)

    def _swapped(self, word: str) -> Row:
        store = open_store(str(self.served.store))
        began = self.releases.index(self.served.held() or "")
        load, moved = self.load().start(), []
        for turn in range(3):
            time.sleep(self.seconds / 4)
            activate(store, self.releases[(began + turn + 1) % 2])
            moved.append(time.perf_counter())
        records = load.records()
        found = row(f"three swaps, {word}", records)
        found["strange"] = _strange(records)
        after = records.began > moved[-1] + 2.5
        found["stale"] = len(set(records.body[after].tolist())) - len(set(records.request[after].tolist()))
        found["besides"] = f"answers of neither release: {found['strange']}"
        return found

    def overload(self) -> Iterator[Row]:
        """Far more than can be answered, for some seconds, beside a light load that goes on all the time."""
        self.replicas(1)
        for word, requests in (("plain", self.requests), ("live", self.live)):
            probe = Load(
                self.served.address, self.requests, connections=64, seconds=self.seconds * 1.5, rate=40.0
            )
            probe.start()
            time.sleep(self.seconds / 2)
            flood = Load(
                self.served.address, requests, connections=1024, seconds=self.seconds / 2, seed=1
            ).run()
            records = probe.records()
            found = row(f"overload, 1,024 connections at once, {word}", flood)
            refused = flood.told.get("503", {})
            found |= {"refused": flood.counts().get("503", 0), "retry_after": refused.get("retry_after")}
            found["besides"] = (
                f"{flood.rate():,.0f} answers/s; 503 with Retry-After: {found['retry_after']}; "
                f"as before {_recovery_s(records, flood):.1f} s after its end"
            )
            yield found
            yield row("a light load beside it, before and after (40/s)", records)

    def slow(self) -> Iterator[Row]:
        """Clients that send a byte a second, in the head or in the body."""
        self.replicas(1)
        yield from self.control("one replica")
        seconds = max(self.seconds, 13.0)  # beyond HAProxy's patience
        for case, request in http_hostile.SLOW.items():
            load = self.load(seconds=seconds).start()
            ended = http_hostile.drip(self.served.address, request, seconds=seconds)
            found = row(f"200 slow clients, {case}", load.records())
            found["besides"] = ended
            yield found

    def bodies(self) -> Iterator[Row]:
        """Bodies of 1 MB, valid and too large, beside the load."""
        self.replicas(1)
        yield from self.control("one replica")
        pid = self.served.replicas()[0]
        for case, request in http_hostile.big_bodies().items():
            load = self.load().start()
            before = psutil.Process(pid).memory_info().rss
            big = Load(
                self.served.address, [request], connections=4, seconds=self.seconds * 0.8, seed=2
            ).run()
            grown = (psutil.Process(pid).memory_info().rss - before) / 2**20
            found = row(f"bodies of {case} on 4 connections", load.records())
            found["besides"] = f"{told(big)}; p50 {_p50(big):.0f} ms; replica grew by {grown:.0f} MiB"
            yield found

    def store(self) -> Iterator[Row]:
        """The store's folder is gone for half the time; then it is back, and a release is activated."""
        self.replicas(1)
        yield from self.control("one replica")
        folder = self.served.store
        away = folder.with_name("away")
        load = self.load().start()
        time.sleep(self.seconds / 4)
        folder.rename(away)
        time.sleep(self.seconds / 4)
        ready = json.loads(self.served.ask("/readyz")[2])
        time.sleep(self.seconds / 4)
        away.rename(folder)
        found = row("store gone and back", load.records())
        other = next(one for one in self.releases if one != self.served.held())
        activate(open_store(str(folder)), other)
        taken = until(lambda: self.served.held() == other, "the other release")
        found["told"] = ready["problem"]
        found["besides"] = (
            f"`problem` while gone: {ready['problem']}; follows CURRENT again {taken:.1f} s after"
        )
        yield found


def row(case: str, records: Records) -> Row:
    """What every case says."""
    p50, p99 = records.quantiles_ms(0.5, 0.99)
    counts = records.counts()
    failed = sum(counts.values()) - counts.get("200", 0)
    gap = records.worst_gap_ms()
    found = {"case": case, "counts": counts, "failed": failed, "p50_ms": p50, "p99_ms": p99, "gap_ms": gap}
    return {**found, "said": records.told, "besides": ""}


def line(found: Row) -> str:
    """A row of the table."""
    counts = ", ".join(f"{n:,} x {status}" for status, n in found["counts"].items())
    times = f"{found['p50_ms']:.1f} | {found['p99_ms']:.1f} | {found['gap_ms']:.0f}"
    return f"| {found['case']} | {counts} | {times} | {found['besides']} |"


def wrong(found: Row) -> str | None:
    """What was lost that must not be."""
    if (
        found["case"].startswith(("control", "three swaps", "store", "200 slow", "bodies"))
        and found["failed"]
    ):
        return f"{found['case']}: {found['counts']}, expected 200 alone ({found['said']})"
    if found.get("lost_beyond") and "one of two" in found["case"]:
        return f"{found['case']}: lost {found['lost_beyond']} that were not in flight on what was killed"
    if "one of two, one retry" in found["case"] and found["failed"]:
        return f"{found['case']}: {found['counts']}, expected none lost after a retry ({found['said']})"
    if found.get("strange") or found.get("stale"):
        return f"{found['case']}: {found['strange']} answers of neither release, {found['stale']} stale"
    if found["case"].startswith("overload") and found["refused"] and not found["retry_after"]:
        return f"{found['case']}: a 503 without Retry-After"
    return None


def _lives(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def _strange(records: Records) -> int:
    """Paths that had more different answers than there are releases."""
    pairs = {
        pair
        for pair, fine in zip(
            zip(records.request.tolist(), records.body.tolist(), strict=True), records.answered, strict=True
        )
        if fine
    }
    paths = [path for path, _ in pairs]
    return sum(paths.count(path) > 2 for path in set(paths))


def _recovery_s(light: Records, flood: Records) -> float:
    """Seconds from the end of the flood until the light load was answered as well as before it."""
    usual = float(np.quantile(light.seconds[light.ended < flood.began.min()], 0.99))
    over = float(flood.ended.max())
    bad = ~light.answered | (light.seconds > 3 * usual)
    late = light.ended[bad & (light.ended > over)]
    return float(late.max() - over) if len(late) else 0.0


def _p50(records: Records) -> float:
    return float(np.median(records.seconds) * 1e3) if len(records.seconds) else float("nan")


CASES: dict[str, Callable[[Faults], Iterator[Row]]] = {
    "swap": Faults.swap,
    "kill": Faults.kill,
    "overload": Faults.overload,
    "slow": Faults.slow,
    "bodies": Faults.bodies,
    "store": Faults.store,
}


def main() -> None:
    """A table, and the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seconds", type=float, default=8.0, help="of each window")
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--factors", type=int, default=64)
    parser.add_argument("--json", type=Path, help="where to write what was counted")
    options = parser.parse_args()
    shape = {"users": options.users, "items": options.items, "factors": options.factors}
    found: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        releases = made_store(folder, **shape, releases=2)
        requests = list_requests(options.users)
        with service(folder, folder / "store") as served:
            warm(served, requests)
            live = live_requests(options.users, options.items)
            faults = Faults(served, requests, live=live, releases=releases, seconds=options.seconds)
            print(
                f"{machine()}, seed 0\n{options.users:,} users x {options.items:,} items, {options.factors} factors, "
                f"k=10; {RATE:g} requests/s on {CONNECTIONS} connections, windows of {options.seconds:g} s\n\n"
                f"{HEADER}\n|{'---|' * (HEADER.count('|') - 1)}"
            )
            for case in options.only:
                for one in CASES[case](faults):
                    print(line(one), flush=True)
                    found.append(one)
    if options.json is not None:
        options.json.write_text(json.dumps(found), encoding="utf-8")
    problems = list(filter(None, map(wrong, found)))
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
