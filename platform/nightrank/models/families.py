"""The families by name; their parameters and search spaces are data in `nightrank.config.families`."""

from __future__ import annotations

from collections.abc import Callable

from nightrank.config.families import LINKS
from nightrank.config.rules import Rule
from nightrank.data.interactions import Interactions
from nightrank.errors import DataError
from nightrank.models.als import fit_als
from nightrank.models.bpr import fit_bpr
from nightrank.models.factor_model import FactorModel, Link, Params
from nightrank.models.fitting import Epoch, Fitting, OnEpoch
from nightrank.models.fm import fit_fm
from nightrank.models.hybrid import fit_hybrid
from nightrank.models.ials import fit_ials
from nightrank.models.lmf import fit_lmf
from nightrank.models.mean import fit_mean
from nightrank.models.popularity import fit_popularity
from nightrank.models.svd import fit_svd

FITS: dict[str, Callable[[Interactions, Params, Fitting], FactorModel]] = {
    "als": fit_als,
    "bpr": fit_bpr,
    "fm": fit_fm,
    "hybrid": fit_hybrid,
    "ials": fit_ials,
    "lmf": fit_lmf,
    "mean": fit_mean,
    "popularity": fit_popularity,
    "svd": fit_svd,
}


def link_of(family: str, params: Params) -> Link:
    """The link of the models of a recipe (`FactorModel`), known before one is fitted."""
    return LINKS.get((family, params.get("task")), "none")


def fit(  # noqa: PLR0913  all that `Fitting` holds, by name
    family: str,
    interactions: Interactions,
    *,
    params: Params,
    seed: int,
    threads: int = 1,
    label: Rule | None = None,
    start: FactorModel | None = None,
    on_epoch: OnEpoch | None = None,
) -> FactorModel:
    """Fit a family whose name and params the settings have checked already.

    seed, threads, label, start, on_epoch: see `Fitting`. A family without epochs calls the hook once, at its end.
    Raises DataError where the fit diverges, or cannot go on from `start`.
    """
    if start is not None and "epochs" not in params:
        raise DataError(f"{family} has no epochs, so it cannot go on from a model; leave the warm start out")
    how = Fitting(seed=seed, threads=threads, label=label, start=start, on_epoch=on_epoch)
    model = FITS[family](interactions, params, how)
    if "epochs" not in params:
        how.goes_on(Epoch(1, 1, model=lambda: model))
    return model
