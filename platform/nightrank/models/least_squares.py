"""One row's weighted least squares problem against fixed vectors, solved in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

_AT_ONCE = 4096  # vectors held as float64
Doubles = NDArray[np.float64]


def minimiser(
    vectors: NDArray[np.float32], columns: NDArray[np.int32], *, base: Doubles, left: Doubles, right: Doubles
) -> Doubles:
    """The x, float64 (d,), with (base + sum of left v v') x = sum of right v over v = vectors[columns].

    vectors: float32 (n, d). base: float64 (d, d), symmetric, not changed. left, right: float64, one a column.
    cells * d^2 + d^3 / 3 multiplications. Raises numpy.linalg.LinAlgError where the sum is not positive definite.
    """
    matrix, target = base.copy(), np.zeros(len(base))
    for start in range(0, len(columns), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        chosen = vectors[columns[part]].astype(np.float64)
        matrix += (chosen.T * left[part]) @ chosen
        target += right[part] @ chosen
    solution: Doubles = cho_solve(cho_factor(matrix, overwrite_a=True, check_finite=False), target)
    return solution
