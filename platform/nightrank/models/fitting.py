"""How a family is fitted, beside its parameters: seed, threads, where to begin, and who looks on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from implicit.recommender_base import ModelFitError
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nightrank.config.rules import Rule
from nightrank.data.interactions import Interactions
from nightrank.errors import DataError
from nightrank.models.factor_model import ARRAYS, CURE, FactorModel, Params


@dataclass(frozen=True)
class Epoch:
    """One pass that has ended. number: from 1. of: how many there will be.

    model: what the fit would return if it ended here; a copy, so it costs one. loss: what training minimises, at this
    point, where the family can say it; of bpr the share of the pairs drawn that were in the wrong order. Both only
    mean this epoch until the hook returns.
    """

    number: int
    of: int
    model: Callable[[], FactorModel]
    loss: Callable[[], float] | None = None


OnEpoch = Callable[[Epoch], bool]


class Stopped(Exception):
    """Carries a hook's wish to end through a library's own loop."""


@dataclass(frozen=True)
class Fitting:
    """seed: of everything random. threads: a model never depends on them.

    label: the rule that makes classes of weights, for a family that learns classes.
    start: a model of the same family, rows and factors, to go on from in place of random vectors (warm start).
    on_epoch: called after every epoch; where it returns False, the fit ends with the model of that epoch.
    """

    seed: int
    threads: int = 1
    label: Rule | None = None
    start: FactorModel | None = None
    on_epoch: OnEpoch | None = None

    def goes_on(self, epoch: Epoch) -> bool:
        """Tell the hook, if there is one, and ask it."""
        return self.on_epoch is None or self.on_epoch(epoch)

    def started(
        self, family: str, interactions: Interactions, *, factors: int
    ) -> tuple[NDArray[np.float32], ...] | None:
        """Copies of the arrays to go on from, in the order of `factor_model.ARRAYS`, or None.

        Raises DataError where `start` is of another family or shape.
        """
        if self.start is None:
            return None
        arrays = [getattr(self.start, name) for name in ARRAYS]
        found = self.start.family, *(array.shape for array in arrays[:2])
        n_users, n_items = interactions.user_items.shape
        wanted = family, (n_users, factors), (n_items, factors)
        if found != wanted:
            raise DataError(
                f"a warm start needs a model of the same family, users, items and factors: found {found}, expected "
                f"{wanted}; bring its rows into the order of these ids, or start afresh"
            )
        return tuple(array.copy() for array in arrays)


@contextmanager
def in_library(family: str, params: Params) -> Iterator[None]:
    """Around the fit of `implicit`: `Stopped` ends it in peace, and what it calls a failed fit is a DataError."""
    try:
        yield
    except Stopped:
        pass
    except ModelFitError as error:
        raise DataError(f"{family} with {dict(params)} diverged ({error}); {CURE}") from None


def writable(matrix: csr_matrix) -> csr_matrix:
    """The same matrix on arrays that can be written: the library asks for that, although it writes none of them.

    Read-only ones (Ray's object store) are copied; those of a private memory map are shared as they are.
    """
    arrays = (matrix.data, matrix.indices, matrix.indptr)
    own = [array if array.flags.writeable else array.copy() for array in arrays]
    return csr_matrix(tuple(own), shape=matrix.shape)
