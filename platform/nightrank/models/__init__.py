"""Model families: each a pure function from interactions and parameters to a FactorModel."""

from nightrank.models.factor_model import FactorModel
from nightrank.models.families import fit

__all__ = ["FactorModel", "fit"]
