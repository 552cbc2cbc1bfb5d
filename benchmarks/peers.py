"""What the engine is held against: the same top-k by other means, each a function to be timed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
from implicit.cpu.topk import topk as implicit_topk
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

TILE_USERS, TILE_ITEMS = 512, 4096
Vectors = NDArray[np.float32]


def bare_product(users: Vectors, items: Vectors, *, threads: int) -> None:
    """The matrix product alone, in preallocated tiles, one BLAS thread in each of our threads."""
    tiles = [np.empty((TILE_USERS, TILE_ITEMS), dtype=np.float32) for _ in range(threads)]

    def work(which: int) -> None:
        for start in range(which * TILE_USERS, len(users), threads * TILE_USERS):
            part = users[start : start + TILE_USERS]
            for first in range(0, len(items), TILE_ITEMS):
                block = items[first : first + TILE_ITEMS]
                np.matmul(part, block.T, out=tiles[which][: len(part), : len(block)])

    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def implicit_recommend(users: Vectors, items: Vectors, seen: csr_matrix, k: int, *, threads: int) -> None:
    """What `recommend` of `implicit` calls for a batch of users: product, then selection, seen items left out."""
    implicit_topk(items, users, k, item_norms=None, filter_query_items=seen, num_threads=threads)


def argpartition(users: Vectors, items: Vectors, k: int) -> NDArray[np.int64]:
    """What most code does: product, argpartition, sort of the k."""
    found = np.empty((len(users), k), dtype=np.int64)
    for start in range(0, len(users), TILE_USERS):
        scores = users[start : start + TILE_USERS] @ items.T
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        found[start : start + TILE_USERS] = np.take_along_axis(best, order, axis=1)
    return found


def full_sort(users: Vectors, items: Vectors, k: int) -> None:
    """What tutorials do: product, and a sort of all items."""
    for start in range(0, len(users), TILE_USERS):
        np.argsort(-(users[start : start + TILE_USERS] @ items.T), axis=1)[:, :k]


def flat(items: Vectors) -> Callable[[Vectors, int], NDArray[np.int64]]:
    """faiss's exact index."""
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    return lambda users, k: index.search(users, k)[1]


def hnsw(items: Vectors) -> Callable[[Vectors, int], NDArray[np.int64]]:
    """faiss's graph index with its usual settings; approximate."""
    index = faiss.IndexHNSWFlat(items.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 64
    index.hnsw.efSearch = 64
    index.add(items)
    return lambda users, k: index.search(users, k)[1]
