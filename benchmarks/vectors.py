"""Vectors for the benchmarks of the engine: fitted once on made events, kept under .nightrank/bench.

als is `implicit`'s; ials is frequency-regularised implicit ALS by plain solves (Rendle, Krichene, Zhang and Koren,
"Revisiting the performance of iALS on item recommendation benchmarks", RecSys 2022), kept here until the package has
the family. Its norms differ less between items than those of als, so there is less to skip. gauss and skewed are
drawn: unit length, and norms over some decades.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

KEPT = Path(__file__).resolve().parent.parent / ".nightrank" / "bench"
REG, UNOBSERVED, NU = 0.003, 0.1, 1.0
Vectors = NDArray[np.float32]


def fitted(name: str, seen: csr_matrix, d: int, *, data: str, seed: int) -> tuple[Vectors, Vectors]:
    """User and item vectors of a family (als, ials) or drawn (gauss, skewed); fitted where they are not kept."""
    if name in ("gauss", "skewed"):
        return drawn(name, seen.shape, d, seed=seed)
    file = KEPT / f"{data}-{name}-{d}-{seed}.npz"
    if not file.is_file():
        fit = als if name == "als" else ials
        users, items = fit(seen, d, seed=seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, users=users, items=items)
    with np.load(file) as arrays:
        return arrays["users"], arrays["items"]


def drawn(name: str, shape: tuple[int, int], d: int, *, seed: int) -> tuple[Vectors, Vectors]:
    """Gaussian directions; gauss: of unit length, skewed: item norms log-normal with sigma 1."""
    rng = np.random.default_rng(seed)
    users, items = (rng.standard_normal((n, d), dtype=np.float32) for n in shape)
    users, items = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (users, items))
    if name == "skewed":
        items *= rng.lognormal(0.0, 1.0, (len(items), 1)).astype(np.float32)
    return users, items


def als(seen: csr_matrix, d: int, *, seed: int) -> tuple[Vectors, Vectors]:
    """`implicit`'s, with its defaults."""
    with threadpool_limits(limits=1, user_api="blas"):
        model = AlternatingLeastSquares(factors=d, random_state=seed)
        model.fit(seen, show_progress=False)
    return np.asarray(model.user_factors), np.asarray(model.item_factors)


def ials(seen: csr_matrix, d: int, *, seed: int, epochs: int = 4) -> tuple[Vectors, Vectors]:
    """Alternate exact solves, each row's regularisation scaled by its frequency."""
    items = np.random.default_rng(seed).normal(0.0, 0.1 / np.sqrt(d), (seen.shape[1], d)).astype(np.float32)
    transposed = seen.T.tocsr()
    for _ in range(epochs):
        users = _half(seen, items)
        items = _half(transposed, users)
    return users, items


def _half(matrix: csr_matrix, others: Vectors, *, batch: int = 32) -> Vectors:
    d = others.shape[1]
    gramian = UNOBSERVED * (others.T @ others)
    solved = np.zeros((matrix.shape[0], d), dtype=np.float32)

    def solve(start: int) -> None:
        stop = min(start + batch, matrix.shape[0])
        left = np.empty((stop - start, d, d), dtype=np.float32)
        right = np.empty((stop - start, d, 1), dtype=np.float32)
        for place, row in enumerate(range(start, stop)):
            found = others[matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]]
            reg = REG * (len(found) + UNOBSERVED * len(others)) ** NU
            left[place] = gramian + found.T @ found + reg * np.eye(d, dtype=np.float32)
            right[place] = found.sum(axis=0)[:, None]
        solved[start:stop] = np.linalg.solve(left, right)[:, :, 0]

    with (
        threadpool_limits(limits=1, user_api="blas"),
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        list(pool.map(solve, range(0, matrix.shape[0], batch)))
    return solved
