"""The users of two releases side by side: slices of both in which everybody stands once, each of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nightrank.data.ids import Id
from nightrank.errors import ReleaseError
from nightrank.release.reader import Release


@dataclass(frozen=True)
class Slice:
    """User rows [start, stop) of one bucket of a release, in the order of their ids; side 0 is release a, 1 is b."""

    side: int
    release: Release
    bucket: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def ids(self) -> pa.Array:
        """Their ids: int64 or large_string."""
        return self.release.model.user_ids.array.slice(self.start, len(self))

    @property
    def items(self) -> NDArray[np.int32]:
        """int32 (users, width): the item rows of their lists in this release, -1 after the end of a list."""
        first = int(self.release.model.bucket_offsets[self.bucket])
        return self.release.bucket_items(self.bucket)[self.start - first : self.stop - first]

    def split(self, pivot: Id) -> tuple[Slice, Slice]:
        """The users below an id, and the others."""
        middle = self.release.model.user_ids.first_not_below(pivot, low=self.start, high=self.stop)
        return replace(self, stop=middle), replace(self, start=middle)


def meetings(a: Release, b: Release, *, most: int) -> Iterator[list[Slice]]:
    """Batches of slices that hold every user of each release once, and a user of both in one batch.

    A bucket is the id's hash mod the number of buckets, so the buckets of somebody who is in both releases agree
    mod the greatest common divisor of the two numbers. Buckets that agree are one batch, split by id, by which
    each is sorted, until it holds at most `most` users, or one user of each bucket.
    """
    n_groups = gcd(a.model.card.n_buckets, b.model.card.n_buckets)
    for group in range(n_groups):
        buckets = [
            _whole(release, side=side, bucket=bucket)
            for side, release in enumerate((a, b))
            for bucket in range(group, release.model.card.n_buckets, n_groups)
        ]
        waiting = [[one for one in buckets if len(one)]]
        while waiting:
            slices = waiting.pop()
            largest = max(map(len, slices), default=0)
            if largest < 2 or sum(map(len, slices)) <= most:
                if slices:
                    yield slices
            else:
                waiting += _halves(slices)


def _whole(release: Release, *, side: int, bucket: int) -> Slice:
    start, stop = release.model.bucket_offsets[bucket : bucket + 2]
    return Slice(side=side, release=release, bucket=bucket, start=int(start), stop=int(stop))


def _halves(slices: list[Slice]) -> list[list[Slice]]:
    """The same users on the two sides of the id in the middle of the largest slice."""
    largest = max(slices, key=len)
    pivot = largest.release.model.user_ids[largest.start + len(largest) // 2]
    pairs = [one.split(pivot) for one in slices]
    halves = [[pair[side] for pair in pairs if len(pair[side])] for side in (0, 1)]
    if not all(halves):
        raise ReleaseError(
            f"release {largest.release.id} is damaged: the user ids of bucket {largest.bucket} are not in order; "
            f"`nightrank releases verify {largest.release.id}` names all that is wrong with it"
        )
    return halves
