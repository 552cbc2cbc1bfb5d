"""The families by name; their parameters and search spaces are data in `nightrank.config.families`."""

from __future__ import annotations

from collections.abc import Callable

from nightrank.data.interactions import Interactions
from nightrank.errors import DataError
from nightrank.models.als import fit_als
from nightrank.models.bpr import fit_bpr
from nightrank.models.factor_model import FactorModel, Link, Params
from nightrank.models.fitting import Epoch, Fitting, OnEpoch
from nightrank.models.ials import fit_ials
from nightrank.models.lmf import fit_lmf
from nightrank.models.popularity import fit_popularity
from nightrank.models.svd import fit_svd

FITS: dict[str, Callable[[Interactions, Params, Fitting], FactorModel]] = {
    "als": fit_als,
    "bpr": fit_bpr,
    "ials": fit_ials,
    "lmf": fit_lmf,
    "popularity": fit_popularity,
    "svd": fit_svd,
}

LINKS: dict[str, Link] = {"svd": "identity"}


def link_of(family: str) -> Link:
    """The link of a family's models (`FactorModel`), known before one is fitted."""
    return LINKS.get(family, "none")


def fit(
    family: str,
    interactions: Interactions,
    *,
    params: Params,
    seed: int,
    threads: int = 1,
    start: FactorModel | None = None,
    on_epoch: OnEpoch | None = None,
) -> FactorModel:
    """Fit a family whose name and params the settings have checked already.

    seed, threads, start, on_epoch: see `Fitting`. A family without epochs calls the hook once, at its end.
    Raises DataError where the fit diverges, or cannot go on from `start`.
    """
    if start is not None and "epochs" not in params:
        raise DataError(f"{family} has no epochs, so it cannot go on from a model; leave the warm start out")
    how = Fitting(seed=seed, threads=threads, start=start, on_epoch=on_epoch)
    model = FITS[family](interactions, params, how)
    if "epochs" not in params:
        how.goes_on(Epoch(1, 1, model=lambda: model))
    return model
