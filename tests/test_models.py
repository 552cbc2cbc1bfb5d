"""Model families: one contract for all, and what each is held against."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from eventfiles import coded
from nightrank.config.families import FAMILIES
from nightrank.data.interactions import Interactions, from_events
from nightrank.errors import DataError
from nightrank.models import FactorModel, fit, link_of
from nightrank.models.factor_model import ARRAYS
from nightrank.models.families import FITS

PARAMS: dict[str, dict[str, Any]] = {
    "als": {"factors": 8, "reg": 0.05, "alpha": 3.0, "epochs": 4},
    "bpr": {"factors": 8, "reg": 0.01, "learning_rate": 0.05, "epochs": 60},
    "fm": {
        "factors": 8,
        "reg": 0.0,
        "learning_rate": 1.0,
        "epochs": 8,
        "task": "rating",
        "negatives": 0,
    },
    "hybrid": {
        "factors": 8,
        "reg": 0.01,
        "learning_rate": 0.05,
        "epochs": 20,
        "loss": "warp",
        "ids": "both",
    },
    "ials": {"factors": 8, "reg": 0.003, "unobserved_weight": 0.1, "nu": 1.0, "epochs": 4},
    "lmf": {"factors": 8, "reg": 0.6, "learning_rate": 0.5, "epochs": 20},
    "mean": {"task": "rating"},
    "popularity": {},
    "svd": {"factors": 8},
}
IMPLICIT = ("als", "ials")  # whose scores come near 1 where a pair is observed
N_USERS, N_ITEMS = 150, 60


def event_table(*, seed: int = 0, shuffle: int | None = None) -> pa.Table:
    """Skewed random events with repeats; user 0 has a single one."""
    rng = np.random.default_rng(seed)
    users = np.r_[0, np.repeat(np.arange(1, N_USERS), rng.integers(1, 30, N_USERS - 1))]
    items = (N_ITEMS * rng.random(len(users)) ** 2).astype(np.int64)
    items[:N_ITEMS] = np.arange(N_ITEMS)
    weights = rng.integers(1, 6, len(users)) * 0.3
    order = (
        np.arange(len(users)) if shuffle is None else np.random.default_rng(shuffle).permutation(len(users))
    )
    return pa.table({"user": users[order], "item": items[order], "weight": weights[order]})


def data(**kwargs: Any) -> Interactions:
    return from_events(coded(event_table(**kwargs)), combine="sum")


def fitted(family: str, interactions: Interactions, *, seed: int = 7, threads: int = 1) -> FactorModel:
    return fit(family, interactions, params=PARAMS[family], seed=seed, threads=threads)


def assert_same_bits(a: FactorModel, b: FactorModel) -> None:
    for name in ARRAYS:
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name


families = pytest.mark.parametrize("family", sorted(FITS))


def test_every_family_is_under_contract() -> None:
    """Protects the suite from a family that it does not run, and settings from one that cannot be fitted."""
    assert PARAMS.keys() == FITS.keys()
    assert FAMILIES.keys() <= FITS.keys()


@families
def test_arrays_are_float32_finite_and_of_one_width(family: str) -> None:
    """Protects the one law: what ranking, files and serving take for granted of any model."""
    interactions = data()
    model = fitted(family, interactions)
    width = PARAMS[family].get("factors", 0)
    assert model.family == family
    assert model.params == PARAMS[family]
    assert model.link == link_of(family, PARAMS[family])
    assert model.user_vectors.shape == (N_USERS, width)
    assert model.item_vectors.shape == (N_ITEMS, width)
    assert model.item_bias.shape == (N_ITEMS,)
    assert model.user_offset.shape == (N_USERS,)
    for name in ARRAYS:
        array = getattr(model, name)
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert np.isfinite(array).all()
    assert model.item_vectors.any() or model.item_bias.any()


@families
def test_same_seed_gives_the_same_bits(family: str) -> None:
    """Protects resumed runs: a refit is the same model, to the bit."""
    interactions = data()
    assert_same_bits(fitted(family, interactions), fitted(family, interactions))


@families
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_nothing(family: str, threads: int) -> None:
    """Protects equal answers on machines of different size: any number of threads, the same bits."""
    interactions = data()
    assert_same_bits(fitted(family, interactions, threads=threads), fitted(family, interactions))


@families
@pytest.mark.parametrize("shuffle", [1, 2])
def test_events_in_any_order_give_the_same_model(family: str, shuffle: int) -> None:
    """Protects training from the order of files and rows."""
    assert_same_bits(fitted(family, data(shuffle=shuffle)), fitted(family, data()))


@pytest.mark.parametrize(
    ("family", "change"), [(family, {}) for family in sorted(FITS)] + [("als", {"alpha": 1.0})]
)
def test_fit_leaves_its_input_alone(family: str, change: dict[str, Any]) -> None:
    """Protects the shared CSR: a fit takes it read-only, and neither scales nor reorders what others read."""
    interactions = data()
    matrix = interactions.user_items
    before = matrix.copy()
    for array in (matrix.data, matrix.indices, matrix.indptr):
        array.flags.writeable = False  # as a memory map or Ray's object store hands it out
    fit(family, interactions, params=PARAMS[family] | change, seed=0)
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(matrix, name), getattr(before, name))


@families
def test_a_user_with_one_event_has_a_vector(family: str) -> None:
    """Protects the smallest history, at row 0: it is fitted like any other, and not left at zero. With svd a single
    rating is its own mean, so there is no more to say of the user than that."""
    model = fitted(family, data())
    assert np.diff(data().user_items.indptr)[0] == 1
    assert model.user_vectors[0].shape == model.user_vectors[1].shape
    if family == "svd":
        np.testing.assert_allclose(model.user_vectors[0], 0.0, atol=1e-7)
        assert model.user_offset[0] == data().user_items.data[0]
    elif model.user_vectors.shape[1]:
        assert model.user_vectors[0].any()


@families
def test_one_pair_alone_can_be_fitted(family: str) -> None:
    """Protects the smallest data there can be: one user, one item; fm says that it has nothing to learn."""
    one = from_events(coded(pa.table({"user": [5], "item": [3], "weight": [2.0]})), combine="sum")
    if family == "fm":
        with pytest.raises(
            DataError, match=r"all 1 weights are 2, so there is nothing to predict; use task=label"
        ):
            fitted(family, one)
        return
    model = fitted(family, one)
    assert (len(model.user_vectors), len(model.item_vectors)) == (1, 1)
    score = float(model.user_vectors[0] @ model.item_vectors[0] + model.item_bias[0])
    if family in (*IMPLICIT, "popularity"):
        assert score > 0.5
    if family == "svd":
        assert score + model.user_offset[0] == 2.0


@pytest.mark.parametrize("family", ["als", "bpr", "hybrid", "ials", "lmf"])
def test_a_factorisation_learns_blocks(family: str) -> None:
    """Protects the orientation of the matrix: users of one block of items prefer their own block."""
    rng = np.random.default_rng(3)
    users, items = np.nonzero(
        (np.arange(40)[:, None] % 2 == np.arange(30) % 2) & (rng.random((40, 30)) < 0.6)
    )
    model = fitted(
        family,
        from_events(coded(pa.table({"user": users, "item": items})), combine="sum"),
    )
    scores = model.user_vectors @ model.item_vectors.T + model.item_bias
    own = np.arange(40)[:, None] % 2 == np.arange(30) % 2
    of_own, of_other = scores[own].reshape(40, 15), scores[~own].reshape(40, 15)
    assert (of_own.mean(axis=1) > of_other.mean(axis=1) + of_other.std(axis=1)).mean() > 0.95
    if family in IMPLICIT:
        assert scores[own].mean() > 0.5
        assert np.abs(scores[~own]).mean() < scores[own].mean() / 3


# popularity


def test_popularity_counts_users_per_item() -> None:
    """Protects the oracle: item_bias is the number of distinct users, not of events and not of weight."""
    events = pa.table(
        {"user": list("aaabbc"), "item": list("xxyxzx"), "weight": [1.0, 9.0, 0.5, 1.0, 2.0, 1.0]}
    )
    model = fitted("popularity", from_events(coded(events), combine="sum"))
    assert model.item_bias.tolist() == [3.0, 1.0, 1.0]
    interactions = data()
    dense = interactions.user_items.toarray()
    np.testing.assert_array_equal(fitted("popularity", interactions).item_bias, (dense > 0).sum(axis=0))


# A fit that diverged


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_name(name: str, value: float) -> None:
    """Protects ranking from NaN: the error names the family, its params and the array, and what to change."""
    arrays = {
        "user_vectors": np.ones((3, 2), dtype=np.float32),
        "item_vectors": np.ones((4, 2), dtype=np.float32),
        "item_bias": np.zeros(4, dtype=np.float32),
        "user_offset": np.zeros(3, dtype=np.float32),
    }
    assert FactorModel(family="als", params={"reg": 0.1}, **arrays).params == {"reg": 0.1}
    arrays[name].reshape(-1)[-1] = value
    with pytest.raises(
        DataError, match=rf"als with \{{'reg': 0.1\}} diverged: {name} .*not finite.*larger reg"
    ):
        FactorModel(family="als", params={"reg": 0.1}, **arrays)
