"""An array that many batches fill, one after the other, without being copied as a whole.

The allocator moves the pages of a large array instead of its bytes, so peak memory is that of the array and a
thirty-second; a list of batches that is concatenated at the end would hold everything twice.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_STEP = 1 << 18


class Growing:
    """A 1-D array under construction; nobody else may hold a view of it before `finish`."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._array: NDArray[Any] = np.empty(0, dtype)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def append(self, values: NDArray[Any]) -> None:
        """Put values at the end, cast to the dtype."""
        end = self._n + len(values)
        if end > len(self._array):
            self._array.resize(end + end // 32, refcheck=False)
        self._array[self._n : end] = values
        self._n = end

    def translate(self, table: NDArray[Any], *, start: int = 0, end: int | None = None) -> None:
        """Put table[value] in the place of each value from start to end, without a copy of all."""
        end = self._n if end is None else end
        for first in range(start, end, _STEP):
            part = self._array[first : min(first + _STEP, end)]
            part[:] = table[part]

    def finish(self) -> NDArray[Any]:
        """The array, cut to its length; nothing can be appended any more."""
        self._array.resize(self._n, refcheck=False)
        return self._array
