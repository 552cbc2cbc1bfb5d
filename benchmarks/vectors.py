"""Vectors for the benchmarks of the engine: fitted once on made events, kept under .nightrank/bench.

als is `implicit`'s; ials is the package's, whose norms differ less between items than those of als, so there is less
to skip. gauss and skewed are drawn: unit length, and norms over some decades.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from nightrank.config.families import FAMILIES
from nightrank.data.ids import ids_from_arrays
from nightrank.data.interactions import Interactions
from nightrank.models import fit

KEPT = Path(__file__).resolve().parent.parent / ".nightrank" / "bench" / "vectors"
EPOCHS = 8  # of ials
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


def ials(seen: csr_matrix, d: int, *, seed: int) -> tuple[Vectors, Vectors]:
    """The package's, with its defaults but for the epochs."""
    params = FAMILIES["ials"].defaults() | {"factors": d, "epochs": EPOCHS}
    users, items = (ids_from_arrays([np.arange(n)]) for n in seen.shape)
    interactions = Interactions(user_ids=users, item_ids=items, user_items=seen, times=None)
    model = fit("ials", interactions, params=params, seed=seed, threads=len(os.sched_getaffinity(0)))
    return model.user_vectors, model.item_vectors
