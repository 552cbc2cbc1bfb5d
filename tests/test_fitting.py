"""How a family is fitted: what the library gives, the hook for every epoch, and going on from a model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from implicit.cpu.lmf import LogisticMatrixFactorization
from threadpoolctl import threadpool_limits

from nightrank.errors import DataError
from nightrank.models import FactorModel, fit
from nightrank.models.families import FITS
from nightrank.models.fitting import Epoch
from test_models import PARAMS, assert_same_bits, data, families, fitted

BY_EPOCHS = sorted(family for family in FITS if "epochs" in PARAMS[family])
by_epochs = pytest.mark.parametrize("family", BY_EPOCHS)


# What `implicit` gives


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_als_equals_the_library(alpha: float) -> None:
    """Protects the meaning of factors, reg, alpha, epochs and seed: `implicit` itself gives the same bits."""
    interactions = data()
    with threadpool_limits(limits=1, user_api="blas"):
        peer = AlternatingLeastSquares(
            factors=8, regularization=0.05, alpha=alpha, iterations=4, random_state=7, num_threads=1
        )
        peer.fit(interactions.user_items, show_progress=False)
    model = fit("als", interactions, params=PARAMS["als"] | {"alpha": alpha}, seed=7)
    assert model.user_vectors.tobytes() == peer.user_factors.tobytes()
    assert model.item_vectors.tobytes() == peer.item_factors.tobytes()
    assert not model.item_bias.any()


def library(kind: type) -> tuple[Any, FactorModel]:
    """The library's own model and ours, by the same parameters and seed."""
    family = {BayesianPersonalizedRanking: "bpr", LogisticMatrixFactorization: "lmf"}[kind]
    params = PARAMS[family]
    peer = kind(
        factors=params["factors"],
        regularization=params["reg"],
        learning_rate=params["learning_rate"],
        iterations=params["epochs"],
        num_threads=1,
        random_state=7,
    )
    peer.fit(data().user_items, show_progress=False)
    return peer, fitted(family, data())


def test_bpr_equals_the_library() -> None:
    """Protects the meaning of bpr's parameters: the same bits, the library's last column as item_bias."""
    peer, model = library(BayesianPersonalizedRanking)
    assert (peer.user_factors[:, 8] == 1).all()
    assert model.user_vectors.tobytes() == peer.user_factors[:, :8].tobytes()
    assert model.item_vectors.tobytes() == peer.item_factors[:, :8].tobytes()
    assert model.item_bias.tobytes() == peer.item_factors[:, 8].tobytes()
    assert not model.user_offset.any()


def test_lmf_equals_the_library() -> None:
    """Protects the meaning of lmf's parameters: the same bits, its two columns of ones taken apart."""
    peer, model = library(LogisticMatrixFactorization)
    whole = peer.user_factors @ peer.item_factors.T
    scores = model.user_vectors @ model.item_vectors.T + model.item_bias + model.user_offset[:, None]
    np.testing.assert_allclose(scores, whole, rtol=1e-4, atol=1e-4)
    assert model.user_vectors.tobytes() == peer.user_factors[:, :8].tobytes()
    assert model.item_vectors.tobytes() == peer.item_factors[:, :8].tobytes()
    assert model.user_offset.any()


@pytest.mark.parametrize(
    ("family", "change"),
    [
        (family, {name: 5 if isinstance(value, int) else 0.017})
        for family in sorted(FITS)
        for name, value in PARAMS[family].items()
        if not isinstance(value, str) and name != "negatives"  # tests/test_fm.py
    ]
    + [("hybrid", {"loss": "bpr"})]  # `ids`: tests/test_hybrid.py, with features
    + [(family, {"seed": 8}) for family in BY_EPOCHS],
    ids=str,
)
def test_settings_do_something(family: str, change: dict[str, Any]) -> None:
    """Protects against a parameter or a seed that is read and dropped."""
    arguments = PARAMS[family] | {"seed": 7} | change
    seed = arguments.pop("seed")
    other = fit(family, data(), params=arguments, seed=seed)
    assert other.item_vectors.tobytes() != fitted(family, data()).item_vectors.tobytes()


# The hook


def watched(family: str, *, stop_after: int = 10**6, **options: Any) -> tuple[list[FactorModel], FactorModel]:
    """The model at each epoch, and what the fit returned."""
    models = []

    def look(epoch: Epoch) -> bool:
        models.append(epoch.model())
        assert epoch.number == len(models)
        assert epoch.of == PARAMS[family].get("epochs", 1)
        return epoch.number < stop_after

    return models, fit(family, data(), params=PARAMS[family], seed=7, on_epoch=look, **options)


@families
def test_the_hook_sees_every_epoch_and_changes_nothing(family: str) -> None:
    """Protects sweeps: one call an epoch, the last with the model that is returned, which is that of a fit alone."""
    models, model = watched(family)
    assert len(models) == PARAMS[family].get("epochs", 1)
    assert_same_bits(models[-1], model)
    assert_same_bits(model, fitted(family, data()))


@by_epochs
def test_the_hook_ends_a_fit(family: str) -> None:
    """Protects early stopping: False ends the fit with that epoch's model; a model handed out stays as it was."""
    models, model = watched(family, stop_after=2)
    assert len(models) == 2
    assert_same_bits(models[-1], model)
    whole, _ = watched(family)
    for early, same in zip(models, whole, strict=False):
        assert_same_bits(early, same)
    assert whole[0].item_vectors.tobytes() != whole[1].item_vectors.tobytes()


@by_epochs
def test_an_error_in_the_hook_ends_the_fit(family: str) -> None:
    """Protects Ctrl-C and bugs in a hook: what it raises is raised, not swallowed by the library's loop."""

    def interrupt(epoch: Epoch) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(family, data(), params=PARAMS[family], seed=7, on_epoch=interrupt)


@pytest.mark.parametrize("family", ["als", "bpr", "hybrid", "ials"])
def test_the_loss_falls(family: str) -> None:
    """Protects the number that progress shows: it is what the family minimises."""
    losses: list[float] = []

    def look(epoch: Epoch) -> bool:
        assert epoch.loss is not None
        losses.append(epoch.loss())
        return True

    fit(family, data(), params=PARAMS[family], seed=7, on_epoch=look)
    assert losses[-1] < losses[0]
    if family not in ("bpr", "hybrid"):  # which are measured on pairs drawn at random
        assert losses == sorted(losses, reverse=True)


# Warm start


@pytest.mark.parametrize("family", ["als", "ials"])
def test_going_on_is_the_same_as_not_stopping(family: str) -> None:
    """Protects warm start: where an epoch depends on the vectors alone, two fits in a row are one, to the bit."""
    models, whole = watched(family)
    rest = PARAMS[family] | {"epochs": PARAMS[family]["epochs"] - 1}
    assert_same_bits(fit(family, data(), params=rest, seed=99, start=models[0]), whole)


@pytest.mark.parametrize("family", ["bpr", "hybrid", "lmf"])
def test_going_on_begins_where_the_other_ended(family: str) -> None:
    """Protects warm start: with a tiny step vectors and biases stay what they were, and the start is not written."""
    start = fitted(family, data())
    before = {name: getattr(start, name).copy() for name in ("user_vectors", "item_vectors", "item_bias")}
    params = PARAMS[family] | {"learning_rate": 1e-9, "epochs": 1}
    model = fit(family, data(), params=params, seed=1, start=start)
    for name, array in before.items():
        np.testing.assert_allclose(getattr(model, name), array, atol=1e-6)
        assert getattr(start, name).tobytes() == array.tobytes()
    np.testing.assert_allclose(model.user_offset, start.user_offset, atol=1e-6)


@by_epochs
def test_a_start_that_does_not_fit_is_refused(family: str) -> None:
    """Protects vectors from standing in the wrong rows: another family, shape or width is an error in words."""
    other = fit(family, data(), params=PARAMS[family] | {"factors": 4}, seed=7)
    wrong = fitted("svd", data())
    for start in (other, wrong):
        with pytest.raises(DataError, match=r"warm start needs .*found .*expected .*start afresh"):
            fit(family, data(), params=PARAMS[family], seed=7, start=start)


@pytest.mark.parametrize("family", ["popularity", "svd"])
def test_a_family_without_epochs_has_no_start(family: str) -> None:
    """Protects from a start that is read and dropped."""
    with pytest.raises(DataError, match=f"{family} has no epochs.*leave the warm start out"):
        fit(family, data(), params=PARAMS[family], seed=7, start=fitted(family, data()))
