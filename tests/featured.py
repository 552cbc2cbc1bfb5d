"""Models with vectors of user features, by hand: what a request with features is answered from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from made import Change
from nightrank.data.features import FeatureColumn
from nightrank.data.interactions import Interactions
from nightrank.models import FactorModel
from nightrank.models.factor_model import FeatureVectors

COLUMNS = (
    FeatureColumn("age", None, mean=30.0, scale=10.0),
    FeatureColumn("gender", ("F", "M")),
    FeatureColumn("likes", ("art", "music", "ünï=x")),
)


def with_features(columns: Sequence[FeatureColumn] = COLUMNS) -> Change:
    """The change that gives a fitted model random vectors of these columns."""

    def change(model: FactorModel, interactions: Interactions) -> FactorModel:
        shape = (sum(one.n_features for one in columns), model.user_vectors.shape[1])
        vectors = np.random.default_rng(8).normal(size=shape).astype(np.float32)
        return dataclasses.replace(model, user_features=FeatureVectors(tuple(columns), vectors))

    return change
