"""What the tests of splits over events share: random events, their pool, both sides of a split, plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from eventfiles import coded
from nightrank.config.events import WeighingConfig
from nightrank.config.split import SplitConfig
from nightrank.data.pools import Pool, pool_of
from nightrank.data.splits import HeldOut, Split, hold_out

DAY_S = 86_400
Event = tuple[str, str, float, int]
Pair = tuple[str, str]
HALF_LIFE_DAYS = 4.0
KINDS = {
    "leave_last": {"n": 1},
    "per_user": {"n": 1},
    "temporal": {"share": 0.3},
    "random_mask": {"share": 0.3},
}


def pool(
    events: list[Event], kind: str, *, seed: int = 0, how: dict[str, Any] | None = None, **rules: Any
) -> Pool:
    users, items, weights, times = map(list, zip(*events, strict=True))
    columns = {"user": users, "item": items, "weight": pa.array(weights, pa.float64())}
    given = {"columns": {"weight": "weight", "time": "time"}} | rules
    if "time" in given["columns"]:
        columns["time"] = pa.array(times, pa.int64())
    defaults = given.pop("defaults", ("sum",))
    checked = WeighingConfig.model_validate(
        {name: value for name, value in given.items() if value is not None}
    )
    split = SplitConfig.model_validate({"kind": kind, **(KINDS[kind] if how is None else how)})
    return pool_of(coded(pa.table(columns)), checked, how=split, seed=seed, defaults=defaults)


def random_events(seed: int, *, n: int = 500, n_users: int = 30, n_items: int = 20) -> list[Event]:
    """Repeats within and across days, many ties, some weights of 0; weights are eighths, so sums are exact."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{user:03}", f"i{item:02}", int(weight) / 8, int(day) * DAY_S)
        for user, item, weight, day in zip(
            rng.integers(0, n_users, n),
            rng.integers(0, n_items, n),
            rng.integers(0, 6, n),
            rng.integers(0, 12, n),
            strict=True,
        )
    ]


def train_of(split: Split) -> dict[Pair, float]:
    train, coo = split.train, split.train.user_items.tocoo()
    return {
        (train.user_ids[int(u)], train.item_ids[int(i)]): float(w)
        for u, i, w in zip(coo.row, coo.col, coo.data, strict=True)
    }


def truth_of(split: Split, whole: Pool) -> dict[Pair, float]:
    """New items have the columns behind train's, in id order; here all that train lacks are held out, or none."""
    known = split.train.item_ids.array.to_pylist()
    n_new = split.truth.shape[1] - len(known)
    others = [item for item in whole.first.item_ids.array.to_pylist() if item not in set(known)]
    assert n_new <= len(others)
    columns = known + others
    coo = split.truth.tocoo()
    assert n_new in (0, len(others)) or coo.col.max() < len(known)
    return {
        (split.train.user_ids[int(u)], columns[int(i)]): float(w)
        for u, i, w in zip(coo.row, coo.col, coo.data, strict=True)
    }


def both(whole: Pool) -> list[tuple[Pool, HeldOut]]:
    """The test split, and the validation split in what it leaves."""
    outer = hold_out(whole)
    return [(whole, outer), (outer.rest, hold_out(outer.rest))]


def combined(
    events: list[Event], *, how: str = "sum", half_life_days: float | None = None
) -> dict[Pair, float]:
    """By a plain loop, decay counted back from the latest pair with a weight."""
    groups: dict[Pair, list[tuple[int, float]]] = {}
    for user, item, weight, time in events:
        groups.setdefault((user, item), []).append((time, weight))
    plain = {pair: sum(w for _, w in of) if how == "sum" else max(of)[1] for pair, of in groups.items()}
    if half_life_days is None:
        return {pair: weight for pair, weight in plain.items() if weight > 0}
    latest = max(max(groups[pair])[0] for pair, weight in plain.items() if weight > 0)
    left = {
        pair: [(time, w * 0.5 ** (max(latest - time, 0) / DAY_S / half_life_days)) for time, w in of]
        for pair, of in groups.items()
        if plain[pair] > 0
    }
    return {pair: sum(w for _, w in of) if how == "sum" else max(of)[1] for pair, of in left.items()}


def cut_of(events: list[Event], *, share: float) -> int:
    """The definition: of the pairs' times but the latest, the one behind which the share is nearest."""
    kept = combined(events)
    times = [max(time for *pair, _, time in events if tuple(pair) == one) for one in kept]
    candidates = sorted(set(times))[:-1]
    return min(candidates, key=lambda cut: (abs(sum(time > cut for time in times) - share * len(times)), cut))
