"""How much the lists changed between two releases.

Users are met by id, in batches of bounded size: memory grows with the items and with k, never with the users.
It says nothing about quality: that is the gate's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.data.ids import Ids
from nightrank.errors import ReleaseError
from nightrank.release.meeting import Slice, meetings
from nightrank.release.reader import Release

BATCH_CELLS = 4_000_000  # places of lists held at a time, of both releases together: 16 MB
TOP = 10


@dataclass(frozen=True)
class Side:
    """One of the two releases. `recommended`: items in anybody's list; `coverage`: their share of the items."""

    release: str
    family: str
    params: dict[str, int | float | str]
    metrics: dict[str, float]
    k: int
    users: int
    items: int
    recommended: int
    coverage: float


@dataclass(frozen=True)
class Difference:
    """From release `a` to release `b`.

    users: `a_only`, `b_only`, `both`. lists, of the users in both, each list cut to the smaller k of the two:
    `overlap@n`, the mean of |top n of a and of b| / the longer of the two, n at most (two empty lists: 1);
    `changed`, the share whose list is another; `changed_items`, the share whose list holds other items, in
    whatever order; all None where nobody is in both. items, of whole lists of all users: `new`, in somebody's
    list of b and in nobody's of a; `gone`, the reverse; `kept`.
    """

    a: Side
    b: Side
    users: dict[str, int]
    lists: dict[str, float | None]
    items: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def diff(a: Release, b: Release) -> Difference:
    """Compare the published lists of two releases.

    Raises ReleaseError where their ids differ in type, or where a list holds a row that is no item's.
    """
    for what in ("user", "item"):
        kinds = [getattr(one.model.card, f"{what}_id_type") for one in (a, b)]
        if kinds[0] != kinds[1]:
            raise ReleaseError(
                f"release {a.id} has {what} ids of type {kinds[0]}, release {b.id} of type {kinds[1]}: they have no "
                f"{what} in common; compare two releases with ids of one type"
            )
    comparison = _Comparison(a, b)
    most = max(1, BATCH_CELLS // max(a.manifest.k, b.manifest.k))
    for batch in meetings(a, b, most=most):
        comparison.add(batch)
    return comparison.difference()


class _Comparison:
    """Sums over the batches of two releases. An item of both is b's row, any other of a a number behind."""

    def __init__(self, a: Release, b: Release) -> None:
        self.a, self.b = a, b
        self.k = min(a.manifest.k, b.manifest.k)
        self.overlap = dict.fromkeys(sorted({min(TOP, self.k), self.k}), 0.0)
        self.users = dict.fromkeys(("a_only", "b_only", "both"), 0)
        self.changed = self.changed_items = 0
        rows = b.model.item_ids.rows_of(a.model.item_ids.array)
        own = b.model.card.n_items + np.arange(len(rows))
        codes = np.append(
            np.where(rows >= 0, rows, own), -1
        )  # of each row of a; the last is that of -1, of none
        self.code = codes.astype(np.int32)
        self.recommended = [np.zeros(one.model.card.n_items + 1, dtype=bool) for one in (a, b)]

    def add(self, batch: list[Slice]) -> None:
        """Count a batch that holds all there is of its users."""
        (ids_a, items_a), (ids_b, items_b) = (
            _read([one for one in batch if one.side == side], release, seen=self.recommended[side])
            for side, release in enumerate((self.a, self.b))
        )
        places = Ids(ids_b).rows_of(ids_a)
        met = places >= 0
        both = int(met.sum())
        self.users["a_only"] += len(places) - both
        self.users["b_only"] += len(ids_b) - both
        self.users["both"] += both
        before, after = self.code[items_a[met, : self.k]], items_b[places[met], : self.k]
        for k in self.overlap:
            hits, longer = _hits(before[:, :k], after[:, :k])
            self.overlap[k] += float(np.where(longer > 0, hits / np.maximum(longer, 1), 1.0).sum())
        self.changed_items += int((hits < longer).sum())  # of the last k, which is all
        self.changed += int((before != after).any(axis=1).sum())

    def difference(self) -> Difference:
        """What was counted, as means and shares."""
        n = self.users["both"]
        sums = {f"overlap@{k}": total for k, total in self.overlap.items()}
        sums |= {"changed": self.changed, "changed_items": self.changed_items}
        in_a, in_b = (flags[:-1] for flags in self.recommended)
        of_a = np.zeros(len(in_b) + len(in_a), dtype=bool)
        of_a[self.code[:-1][in_a]] = True
        kept = int((of_a[: len(in_b)] & in_b).sum())
        return Difference(
            a=_side(self.a, int(in_a.sum())),
            b=_side(self.b, int(in_b.sum())),
            users=self.users,
            lists={name: total / n if n else None for name, total in sums.items()},
            items={"new": int(in_b.sum()) - kept, "gone": int(in_a.sum()) - kept, "kept": kept},
        )


def _read(
    slices: list[Slice], release: Release, *, seen: NDArray[np.bool_]
) -> tuple[pa.Array, NDArray[np.int32]]:
    """Ids and lists of a batch's users of one release; marks the items of the lists in `seen`."""
    ids = pa.chunked_array([one.ids for one in slices], type=release.model.user_ids.array.type)
    items = np.concatenate([np.empty((0, release.manifest.k), np.int32), *(one.items for one in slices)])
    if items.size and not -1 <= items.min() <= items.max() < release.model.card.n_items:
        raise ReleaseError(
            f"release {release.id} is damaged: a list holds a row that is no item's; `nightrank releases verify "
            f"{release.id}` names all that is wrong with it"
        )
    seen[items] = True  # absent ones are -1: the place behind the last item
    return ids.combine_chunks(), items


def _hits(left: NDArray[np.int32], right: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each pair of lists: how many items are in both, and how many in the longer one."""
    both = np.sort(np.concatenate([left, right], axis=1), axis=1)
    hits = np.count_nonzero((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0), axis=1)
    longer = np.maximum(np.count_nonzero(left >= 0, axis=1), np.count_nonzero(right >= 0, axis=1))
    return hits, longer


def _side(release: Release, recommended: int) -> Side:
    manifest, card = release.manifest, release.model.card
    return Side(
        release=release.id,
        family=manifest.family,
        params=manifest.params,
        metrics=manifest.metrics,
        k=manifest.k,
        users=card.n_users,
        items=card.n_items,
        recommended=recommended,
        coverage=recommended / card.n_items,
    )
