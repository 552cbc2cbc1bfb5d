"""Model families: each a pure function from interactions and parameters to a FactorModel."""

from nightrank.models.factor_model import FactorModel
from nightrank.models.families import fit, link_of
from nightrank.models.fold_in import FoldIn, fold_in

__all__ = ["FactorModel", "FoldIn", "fit", "fold_in", "link_of"]
