"""mean, the baseline of rmse and logloss: by plain loops, and where a class is missing."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from eventfiles import coded
from nightrank.config.families import combines
from nightrank.config.rules import parse_rule
from nightrank.data.interactions import Interactions, from_events
from nightrank.errors import DataError
from nightrank.models import FactorModel, fit
from nightrank.models.mean import DAMPING

LIKED = parse_rule("weight>=4")


def ratings(weights: list[float] | None = None) -> Interactions:
    rng = np.random.default_rng(5)
    cells = np.argwhere(rng.random((12, 6)) < 0.6)
    values = rng.integers(1, 6, len(cells)).astype(float) if weights is None else weights
    table = pa.table(
        {"user": cells[: len(values), 0], "item": cells[: len(values), 1], "weight": list(values)}
    )
    return from_events(coded(table), combine="sum")


def fitted(task: str, interactions: Interactions) -> FactorModel:
    return fit("mean", interactions, params={"task": task}, seed=0, label=LIKED)


def test_a_rating_is_the_mean_and_the_items_damped_distance() -> None:
    """The baseline of rmse is Koren's item estimate, so that a gain over it is a gain over something published."""
    found = ratings()
    model, dense = fitted("rating", found), found.user_items.toarray()
    overall = dense[dense > 0].mean()
    assert model.link == "identity"
    np.testing.assert_allclose(model.user_offset, overall, rtol=1e-6)
    for item, column in enumerate(dense.T):
        seen = [weight - overall for weight in column if weight > 0]
        assert model.item_bias[item] == pytest.approx(sum(seen) / (DAMPING + len(seen)), rel=1e-5)


def test_a_class_is_the_share_of_all_and_the_items_damped_one() -> None:
    """The baseline of logloss is the same in logits: offset plus bias is the logit of the item's damped share."""
    found = ratings()
    model, dense = fitted("label", found), found.user_items.toarray()
    positive = int((dense >= 4).sum())
    overall = (positive + 0.5) / (found.user_items.nnz + 1)
    assert model.link == "logistic"
    for item, column in enumerate(dense.T):
        n, liked = int((column > 0).sum()), int((column >= 4).sum())
        share = overall + (liked - n * overall) / (DAMPING + n)
        logit = float(model.user_offset[0]) + float(model.item_bias[item])
        assert logit == pytest.approx(math.log(share / (1 - share)), rel=1e-5)


@pytest.mark.parametrize("weight", [5.0, 1.0])
def test_one_class_alone_has_a_finite_logit(weight: float) -> None:
    """A label that all pairs have, or none, is no reason for a night to end at its baseline."""
    model = fitted("label", ratings([weight] * 20))
    assert np.isfinite(model.user_offset).all()
    assert (model.user_offset[0] > 0) == (weight >= 4)


def test_a_class_needs_its_rule() -> None:
    """Without `label` there are no classes: refused by name, with what to write."""
    with pytest.raises(DataError, match=r"mean with task label .* label: weight>=4"):
        fit("mean", ratings(), params={"task": "label"}, seed=0)


def test_it_takes_the_weights_of_what_it_is_held_against() -> None:
    """Beside a family it combines pairs as that family does; alone the latest rating counts."""
    assert combines(["mean", "als"]) == ("sum",)
    assert combines(["mean", "svd"]) == combines(["mean"]) == ("last",)
