"""The peer of fm: the same factorization machine as one writes it in PyTorch, embedding layers and Adam."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

BATCH = 1024


class TorchFM(torch.nn.Module):
    """Every example is one feature of each column; all pairs of them interact."""

    def __init__(self, n_features: int, *, factors: int, mean: float) -> None:
        super().__init__()
        self.linear = torch.nn.Embedding(n_features, 1)
        self.vectors = torch.nn.Embedding(n_features, factors)
        self.offset = torch.nn.Parameter(torch.tensor(mean))
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.normal_(self.vectors.weight, std=0.01)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """float32 (n,) of int64 (n, n_columns)."""
        vectors = self.vectors(features)
        pairs = 0.5 * (vectors.sum(dim=1).square() - vectors.square().sum(dim=1)).sum(dim=1)
        return self.offset + self.linear(features).sum(dim=(1, 2)) + pairs


def train(
    features: NDArray[np.int64],
    ratings: NDArray[np.float32],
    *,
    n_features: int,
    settings: dict[str, float],
    epochs: int,
    threads: int,
    look: Callable[[TorchFM], float],
) -> list[tuple[float, float]]:
    """(seconds of training so far, what `look` says) after every epoch. settings: factors, lr, weight_decay, seed."""
    torch.set_num_threads(threads)
    torch.manual_seed(int(settings["seed"]))
    model = TorchFM(n_features, factors=int(settings["factors"]), mean=float(ratings.mean()))
    adam = torch.optim.Adam(model.parameters(), lr=settings["lr"], weight_decay=settings["weight_decay"])
    x, y = torch.from_numpy(features), torch.from_numpy(ratings)
    spent, found = 0.0, []
    for _ in range(epochs):
        started = time.perf_counter()
        order = torch.randperm(len(y))
        for batch in order.split(BATCH):
            adam.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x[batch]), y[batch])
            loss.backward()
            adam.step()
        spent += time.perf_counter() - started
        with torch.no_grad():
            found.append((spent, look(model)))
    return found
