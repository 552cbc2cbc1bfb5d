"""fm: seconds beside the same machine in PyTorch, and quality on MovieLens 100K beside logistic regression.

    make bench
    python benchmarks/fm.py --only quality --seeds 0,1,2

The first table: an epoch of a million made ratings (6,000 users x 4,000 items) with 64 factors and six columns of
metadata, here and in PyTorch (embedding layers, Adam, batches of 1,024), on the same threads; and the seconds that it
takes us to be as good on held-out ratings as PyTorch at its best epoch, of the best of a few settings. The ratings
are of a low rank, with a part that the metadata explains, and noise of half a star.

The second: RMSE on ratings of MovieLens 100K held out at random (a tenth, a fifth), by what fm knows; the parameters
are its defaults but for the number of factors. The third: 10 ratings of each user held out, label weight>=4, fm with
task=label beside scikit-learn's logistic regression on the same one-hot columns, the best of four regularisations
chosen on the held-out ratings themselves. Intervals are over users; a difference is paired by user.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from nightrank.batch.inputs import find_inputs
from nightrank.config.families import FAMILIES
from nightrank.config.job import JobConfig
from nightrank.config.rules import parse_rule
from nightrank.config.split import SplitConfig
from nightrank.data.events import read_events
from nightrank.data.features import FeatureColumn, Features, SideFeatures
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata, read_metadata
from nightrank.data.pools import pool_of
from nightrank.data.splits import Split, featured, hold_out
from nightrank.models import FactorModel, fit
from nightrank.models.fitting import Epoch
from nightrank.quality.evaluation import evaluate
from nightrank.quality.names import parse_metrics
from nightrank.quality.values import held_out_pairs

SPEED = (
    "| | epoch, s | against PyTorch | best held-out RMSE | after, s | as good as PyTorch's best after, s |"
)
QUALITY = "| held out | seed | factors | ids | with age, gender, occupation | with genres too |"
LABELS = "| columns | model | accuracy | AUC | log loss |"
RULE = parse_rule("weight>=4")
DEFAULTS = FAMILIES["fm"].defaults()
USERS, ITEMS, RATINGS = 6_000, 4_000, 1_000_000
COLUMNS = ((7, 2, 21), (18, 18, 5))  # categories of each column of users, and of items


# A million made ratings


def made(*, seed: int) -> tuple[Interactions, Interactions]:
    """Ratings of half stars to learn from, and a tenth held out: both with the same features."""
    rng = np.random.default_rng(seed)
    cells = (USERS * rng.random(2 * RATINGS) ** 1.3).astype(np.int64) * ITEMS
    cells = np.unique(cells + (ITEMS * rng.random(2 * RATINGS) ** 2).astype(np.int64))
    users, items = np.divmod(rng.permutation(cells)[: int(RATINGS / 0.9)], ITEMS)
    sides = [_made_side(n, sizes, rng=rng) for n, sizes in zip((USERS, ITEMS), COLUMNS, strict=True)]
    (known_users, p), (known_items, q) = sides
    taste = np.einsum("ij,ij->i", p[users, 1:], q[items, 1:]) + p[users, 0] + q[items, 0]
    noisy = 3.5 + taste / taste.std() + 0.5 * rng.normal(size=len(users))
    stars = np.clip(np.round(2 * noisy) / 2, 0.5, 5.0)
    is_held = rng.random(len(users)) < 0.1
    found = []
    for chosen in (~is_held, is_held):
        table = pa.table({"user": users[chosen], "item": items[chosen], "weight": stars[chosen]})
        one = Interactions.from_arrow(table, columns={"user": "user", "item": "item", "weight": "weight"})
        found.append(_on_all(one, SideFeatures(known_users, known_items)))
    return found[0], found[1]


def _made_side(
    n: int, sizes: tuple[int, ...], *, rng: np.random.Generator
) -> tuple[Features, NDArray[np.float64]]:
    """Features, one category of each column, and vectors of which they explain a third."""
    blocks = [sp.csr_matrix(np.eye(size, dtype=np.float32)[rng.integers(0, size, n)]) for size in sizes]
    columns = tuple(
        FeatureColumn(f"column {number}", tuple(map(str, range(size)))) for number, size in enumerate(sizes)
    )
    matrix = sp.csr_matrix(sp.hstack(blocks))
    vectors = matrix @ rng.normal(size=(matrix.shape[1], 13)) / 3 + rng.normal(size=(n, 13)) * 0.8
    return Features(matrix, columns), vectors


def _on_all(part: Interactions, known: SideFeatures) -> Interactions:
    """The same pairs, on rows that are the ids themselves."""
    matrix = part.user_items.tocoo()
    rows = part.user_ids.array.to_numpy()[matrix.row], part.item_ids.array.to_numpy()[matrix.col]
    whole = sp.csr_matrix((matrix.data, rows), shape=(USERS, ITEMS))
    whole.sort_indices()
    return replace(part, user_items=whole, features=known)


def one_hot(part: Interactions) -> tuple[NDArray[np.int64], int]:
    """The feature of every column for every pair, int64 (n, n_columns), as embedding layers take it; their number."""
    users, items = part.pair_users().astype(np.int64), part.user_items.indices.astype(np.int64)
    found, first = [users, USERS + items], USERS + ITEMS
    known = part.features or SideFeatures()
    for side, rows in ((known.users, users), (known.items, items)):
        if side is None:
            continue
        of_row = side.matrix.indices.reshape(len(side.matrix.indptr) - 1, -1)
        found += [first + of_row[rows, column] for column in range(of_row.shape[1])]
        first += side.matrix.shape[1]
    return np.stack(found, axis=1), first


def speed(*, seed: int, threads: int, torch_epochs: int) -> None:
    """The first table."""
    try:
        from torch_fm import TorchFM, train
    except ImportError:
        sys.exit("benchmarks/fm.py: PyTorch is not here; `make bench` installs it, or use --only quality")
    import torch

    learned, held = made(seed=seed)
    (x, n_features), (held_x, _) = one_hot(learned), one_hot(held)
    print(
        f"{learned.user_items.nnz} ratings, {held.user_items.nnz} held out, {n_features} features, 64 factors\n"
    )
    curves = {}
    for rate, decay in ((1e-3, 0.0), (1e-3, 1e-5), (3e-3, 1e-5)):
        settings = {"factors": 64.0, "lr": rate, "weight_decay": decay, "seed": float(seed)}

        def look(model: TorchFM) -> float:
            values = model(torch.from_numpy(held_x)).numpy().clip(0.5, 5.0)
            return float(np.sqrt(np.mean((values - held.user_items.data) ** 2)))

        curves[f"PyTorch, lr {rate}, weight decay {decay}"] = train(
            x, learned.user_items.data, n_features=n_features, settings=settings, epochs=torch_epochs,
            threads=threads, look=look,
        )  # fmt: skip
    peer = min(min(value for _, value in curve) for curve in curves.values())
    epoch_s = min(curve[-1][0] / len(curve) for curve in curves.values())
    for used in sorted({1, threads}):
        curves[f"nightrank fm on {used} thread(s)"] = _ours(learned, held, seed=seed, threads=used)
    print(f"{SPEED}\n|{'---|' * (SPEED.count('|') - 1)}")
    for name, curve in curves.items():
        own = curve[-1][0] / len(curve)
        best_s, best = min(curve, key=lambda point: point[1])
        as_good = next((f"{spent:.1f}" for spent, value in curve if value <= peer), "never")
        print(f"| {name} | {own:.2f} | {own / epoch_s:.2f} | {best:.4f} | {best_s:.1f} | {as_good} |")


def _ours(learned: Interactions, held: Interactions, *, seed: int, threads: int) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    fit("fm", learned, params=DEFAULTS | {"epochs": 1}, seed=seed)  # compiled before the clock runs
    started, looked = time.perf_counter(), 0.0

    def look(epoch: Epoch) -> bool:
        nonlocal looked
        now = time.perf_counter()
        pairs = held_out_pairs(epoch.model(), held.user_items)
        value = float(np.sqrt(np.mean((pairs.logits.clip(0.5, 5.0) - pairs.weights) ** 2)))
        found.append((now - started - looked, value))
        looked += time.perf_counter() - now
        return True

    fit("fm", learned, params=DEFAULTS, seed=seed, threads=threads, on_epoch=look)
    return found


# MovieLens 100K


class MovieLens:
    """The ratings and the columns of both tables, split as asked."""

    def __init__(self) -> None:
        job = {"store": tempfile.gettempdir(), "events": {"dataset": "movielens-100k"}}
        self.job = JobConfig.model_validate(job)
        self.inputs = find_inputs(self.job)
        self.events = read_events(self.inputs.events, **self.job.events.columns.model_dump())
        self.metadata = read_metadata(
            self.job, user_files=self.inputs.users, item_files=self.inputs.items, user_kind="int64", item_kind="int64"
        )  # fmt: skip

    def held_out(self, how: SplitConfig, *, seed: int) -> dict[str, Split]:
        """The split, by what fm knows beside ids."""
        pool = pool_of(self.events, self.job.events, how=how, seed=seed, defaults=("last",))
        split = next(iter(hold_out(pool).splits.values()))
        return {
            "user, item": split,
            "and age, gender, occupation": featured(split, Metadata(users=self.metadata.users, items=None)),
            "and genres": featured(split, self.metadata),
        }


def measured(model: FactorModel, split: Split, metrics: str) -> dict[str, float]:
    """Each metric on the held-out pairs."""
    rule = RULE if "auc" in metrics else None
    specs = parse_metrics(metrics)
    found = evaluate(model, train=split.train.user_items, truth=split.truth, metrics=specs, rule=rule)
    return {name: one.value for name, one in found.metrics.items()}


def quality(data: MovieLens, *, seeds: list[int], threads: int) -> None:
    """The second table."""
    print(f"RMSE on {data.job.events.dataset}\n\n{QUALITY}\n|{'---|' * (QUALITY.count('|') - 1)}")
    for share in (0.1, 0.2):
        for seed in seeds:
            splits = data.held_out(SplitConfig(kind="random_mask", share=share), seed=seed)
            for factors in (64, 120):
                params = DEFAULTS | {"factors": factors}
                cells = [
                    measured(fit("fm", one.train, params=params, seed=seed, threads=threads), one, "rmse")[
                        "rmse"
                    ]
                    for one in splits.values()
                ]
                print(f"| {share:.0%} | {seed} | {factors} | " + " | ".join(f"{x:.4f}" for x in cells) + " |")


def labels(data: MovieLens, *, seeds: list[int], threads: int) -> None:
    """The third table: means over the seeds."""
    print(f"\nLabel {RULE}, 10 ratings of each user held out, means of seeds {seeds}\n")
    print(f"{LABELS}\n|{'---|' * (LABELS.count('|') - 1)}")
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in seeds:
        for name, split in data.held_out(SplitConfig(kind="per_user", n=10), seed=seed).items():
            params = DEFAULTS | {"task": "label"}
            model = fit("fm", split.train, params=params, seed=seed, threads=threads, label=RULE)
            values = measured(model, split, "accuracy,auc,logloss")
            found.setdefault((name, "fm"), []).append(list(values.values()))
            found.setdefault((name, "logistic regression"), []).append(regression(split))
    for (name, model_name), rows in found.items():
        cells = " | ".join(f"{x:.4f}" for x in np.mean(rows, axis=0))
        print(f"| {name} | {model_name} | {cells} |")


def regression(split: Split) -> list[float]:
    """accuracy, AUC and log loss of scikit-learn's on the same columns; of four C the one with the least log loss."""
    n_items = len(split.train.item_ids)
    truth = split.truth.tocoo()
    known = truth.col < n_items  # it has no column for the others
    rows = truth.row[known], truth.col[known]
    design = design_of(split.train, split.train.pair_users(), split.train.user_items.indices)
    is_so, wanted = RULE.holds(split.train.user_items.data), RULE.holds(truth.data[known])
    best: list[float] = []
    for c in (0.1, 0.3, 1.0, 3.0):
        model = LogisticRegression(C=c, max_iter=1000).fit(design, is_so)
        found = model.predict_proba(design_of(split.train, *rows))[:, 1]
        values = [accuracy_score(wanted, found >= 0.5), roc_auc_score(wanted, found), log_loss(wanted, found)]
        best = values if not best or values[2] < best[2] else best
    return best


def design_of(train: Interactions, users: NDArray[np.int32], items: NDArray[np.int32]) -> sp.csr_matrix:
    """One row a pair: one-hot ids, then the features."""
    n_users, n_items = train.user_items.shape
    blocks = [sp.identity(n_users, format="csr")[users], sp.identity(n_items, format="csr")[items]]
    known = train.features or SideFeatures()
    for side, rows in ((known.users, users), (known.items, items)):
        if side is not None:
            blocks.append(side.matrix[rows])
    return sp.csr_matrix(sp.hstack(blocks))


def main() -> None:
    """The tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("speed", "quality"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--torch-epochs", type=int, default=12)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    threads = len(os.sched_getaffinity(0))
    print(f"commit {commit.stdout.strip()}, {platform.machine()}, {threads} CPUs, seeds {options.seeds}\n")
    if options.only != "quality":
        speed(seed=seeds[0], threads=threads, torch_epochs=options.torch_epochs)
        print()
    if options.only != "speed":
        data = MovieLens()
        quality(data, seeds=seeds, threads=threads)
        labels(data, seeds=seeds, threads=threads)


if __name__ == "__main__":
    main()
