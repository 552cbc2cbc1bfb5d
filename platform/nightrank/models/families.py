"""The families by name; their parameters and search spaces are data in `nightrank.config.families`."""

from __future__ import annotations

from collections.abc import Callable

from nightrank.data.interactions import Interactions
from nightrank.models.als import fit_als
from nightrank.models.factor_model import FactorModel, Params
from nightrank.models.ials import fit_ials
from nightrank.models.popularity import fit_popularity

FITS: dict[str, Callable[..., FactorModel]] = {
    "als": fit_als,
    "ials": fit_ials,
    "popularity": fit_popularity,
}


def fit(
    family: str, interactions: Interactions, *, params: Params, seed: int, threads: int = 1
) -> FactorModel:
    """Fit a family whose name and params the settings have checked already."""
    return FITS[family](interactions, params, seed=seed, threads=threads)
