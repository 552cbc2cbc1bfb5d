"""Features of a user whom the release does not know: ranked by the sum of their vectors, and what is unknown told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import asked
import made
from asked import K, Service, refusal, served, user_path
from featured import with_features
from nightrank.config.service import LimitsSettings
from nightrank.data.interactions import Interactions
from nightrank.models import FactorModel
from nightrank.ranking import ItemIndex, PartitionedIndex
from nightrank.service.holder import ReleaseHolder
from nightrank.service.prepared import prepare
from nightrank.service.prometheus import totals
from nightrank.service.refusal import RequestError
from nightrank.service.routes import build_api

RECOMMENDATIONS = "/v1/recommendations"
ANN = {"age": 25, "gender": "F", "likes": ["music", "art"]}
UNKNOWN_USER = 1
VALUES = "expected a text, a number, true or false, null, or a list of them"


def service_of(folder: Path, family: str, **params: Any) -> Service:
    train = {"model": family, "params": {"factors": 8, "epochs": 3, **params}}
    return served(made.published_release(folder, score=asked.SCORE, train=train, change=with_features()))


@pytest.fixture(scope="module")
def bpr(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Features, and no fold-in; tests only read."""
    return service_of(tmp_path_factory.mktemp("bpr"), "bpr")


@pytest.fixture(scope="module")
def als(tmp_path_factory: pytest.TempPathFactory) -> Service:
    """Features and a fold-in; tests only read."""
    return service_of(tmp_path_factory.mktemp("als"), "als")


def ranked(service: Service, weights: dict[int, float]) -> list[tuple[Any, float]]:
    """Every item for the sum of these features' vectors: the test's own way to the answer."""
    model = service.published.release.model
    assert model.user_features is not None
    vector = sum(
        weight * model.user_features.vectors[place].astype(np.float64) for place, weight in weights.items()
    )
    index = ItemIndex(np.array(model.item_vectors), np.array(model.item_bias))
    found = index.top_k(np.asarray(vector, np.float32)[None, :], made.N_ITEMS)
    pairs = zip(found.item_rows[0].tolist(), found.scores[0].tolist(), strict=True)
    return [(model.item_ids[row], score) for row, score in pairs]


def listed(answer: dict[str, Any]) -> list[tuple[Any, float]]:
    return [(item["item_id"], item["score"]) for item in answer["items"]]


@pytest.mark.parametrize(
    ("features", "weights"),
    [
        (ANN, {0: -0.5, 1: 1.0, 4: 0.5, 3: 0.5}),
        ({"age": 30.5}, {0: 0.05}),
        ({"gender": "M", "age": None, "likes": []}, {2: 1.0}),
        ({"likes": "ünï=x"}, {5: 1.0}),
        ({"likes": ["art", "art"]}, {3: 1.0}),
        ({"likes": [None, " art ", ""], "gender": "", "age": " 25"}, {3: 1.0, 0: -0.5}),
        ({"age": [25]}, {0: -0.5}),
    ],
)
def test_a_stranger_is_the_sum_of_their_features(
    bpr: Service, features: dict[str, Any], weights: dict[int, float]
) -> None:
    """With an id that nobody knows or with none: the whole catalogue by that vector, and nothing is unknown."""
    for user in ({}, {"user_id": UNKNOWN_USER}):
        answer = bpr.post(RECOMMENDATIONS, user | {"features": features, "k": made.N_ITEMS}).json()
        assert (answer["source"], answer["user_id"]) == ("features", user.get("user_id"))
        assert "unknown_features" not in answer
        assert listed(answer) == ranked(bpr, weights)


@pytest.mark.parametrize(
    ("features", "unknown", "weights"),
    [
        ({"gender": "M", "hobby": "x"}, ["hobby"], {2: 1.0}),
        ({"gender": "M", "likes": ["art", "golf", "chess"]}, ["likes=chess", "likes=golf"], {2: 1.0, 3: 1.0}),
        ({"gender": "X", "age": 40}, ["gender=X"], {0: 1.0}),
        ({"gender": "F", "age": "forty"}, ["age"], {1: 1.0}),
        (
            {"likes": ["music", 3, True, 2.0], "age": [40, 41]},
            ["age", "likes=2", "likes=3", "likes=true"],
            {4: 1.0},
        ),
        ({"gender": "X", "age": True, "hobby": None}, ["age", "gender=X", "hobby"], None),
        ({"gender": 3.0}, ["gender=3"], None),
        ({"gender": None}, None, None),
    ],
)
def test_what_is_unknown_is_told_and_the_rest_counts(
    bpr: Service, features: dict[str, Any], unknown: list[str] | None, weights: dict[int, float] | None
) -> None:
    """A column by its name, a category with its column; where nothing is known the popular items are left."""
    answer = bpr.post(RECOMMENDATIONS, {"features": features, "k": 9}).json()
    assert answer.get("unknown_features") == unknown
    if weights is None:
        popular = bpr.get(user_path(UNKNOWN_USER), k=9).json()
        assert (answer["source"], answer["items"]) == ("popular", popular["items"])
    else:
        assert (answer["source"], listed(answer)) == ("features", ranked(bpr, weights)[:9])


def test_a_known_user_is_answered_from_the_stored_vector(bpr: Service) -> None:
    """Their features went into it at night; what the model does not know of them is told all the same."""
    asked_for = ({"k": 5}, {"k": K, "categories": ["Drama"]}, {"k": made.N_ITEMS})
    for more, source in zip(asked_for, ("precomputed", "live", "live"), strict=True):
        plain = bpr.post(RECOMMENDATIONS, {"user_id": 0, **more}).json()
        told = bpr.post(RECOMMENDATIONS, {"user_id": 0, "features": ANN, **more}).json()
        assert plain["source"] == source
        assert told == plain
        odd = bpr.post(
            RECOMMENDATIONS, {"user_id": 0, "features": {"hobby": 1, "gender": "X"}, **more}
        ).json()
        assert odd == plain | {"unknown_features": ["gender=X", "hobby"]}


def test_filters_hold_for_strangers_too(bpr: Service) -> None:
    """Categories, excluded items, candidates and k: exactly the best of what is left."""
    order = ranked(bpr, {2: 1.0})
    drama = {
        item for item, _ in listed(bpr.get(user_path(UNKNOWN_USER), category="Drama", k=made.N_ITEMS).json())
    }
    hidden, chosen = [item for item, _ in order[:4]], [item for item, _ in order[2:9]]
    for more, left in (
        ({"categories": ["Drama"]}, drama),
        ({"exclude": hidden}, {item for item, _ in order} - set(hidden)),
        ({"candidates": chosen}, set(chosen)),
        (
            {"candidates": chosen, "exclude": hidden, "categories": ["Drama"]},
            set(chosen) - set(hidden) & drama,
        ),
    ):
        answer = bpr.post(RECOMMENDATIONS, {"features": {"gender": "M"}, "k": 6, **more}).json()
        left = set(chosen) & drama - set(hidden) if len(more) == 3 else left
        assert answer["source"] == "features"
        assert listed(answer) == [pair for pair in order if pair[0] in left][:6]


def test_events_go_before_features_where_the_model_can_fold_in(als: Service, bpr: Service) -> None:
    """als: the vector of the events, as without features. bpr: that of the features, without what was just seen."""
    events = [{"item_id": 3, "weight": 5.0}, {"item_id": 17}]
    folded = als.post(RECOMMENDATIONS, {"events": events, "k": 12}).json()
    both = als.post(
        RECOMMENDATIONS, {"events": events, "features": {"gender": "M", "hobby": 1}, "k": 12}
    ).json()
    assert folded["source"] == "fold_in"
    assert both == folded | {"unknown_features": ["hobby"]}
    answer = bpr.post(RECOMMENDATIONS, {"events": events, "features": {"gender": "M"}, "k": 12}).json()
    assert answer["source"] == "features"
    assert listed(answer) == [pair for pair in ranked(bpr, {2: 1.0}) if pair[0] not in (3, 17)][:12]
    nothing = {"events": [{"item_id": 123_456_789}], "features": {"gender": "M"}, "k": 5}
    answer = als.post(RECOMMENDATIONS, nothing).json()
    assert (answer["source"], answer["unknown_items"]) == ("features", [123_456_789])
    assert listed(answer) == ranked(als, {2: 1.0})[:5]


def test_a_batch_mixes_them_and_they_are_counted(bpr: Service) -> None:
    """Each as alone; a refusal in its place; stats and metrics count the source."""
    requests = [
        {"features": ANN, "k": 3},
        {"user_id": 0, "k": 3},
        {"features": ANN, "k": 1_001},
        {"features": {"hobby": 1}, "k": 3},
        {"user_id": UNKNOWN_USER, "features": {"gender": "M"}},
    ]
    service = served(bpr.published)
    responses = service.post(RECOMMENDATIONS, {"requests": requests}).json()["responses"]
    alone = [service.post(RECOMMENDATIONS, request) for request in requests]
    assert [one.status_code for one in alone] == [200, 200, 422, 200, 200]
    assert responses == [one.json() for one in alone]
    stats = service.get("/v1/stats").json()
    assert stats["by_source"] == {"features": 4, "popular": 2, "precomputed": 2}
    assert stats["fallback_share"] == 2 / 8
    assert stats["latency_ms"]["features"]["p50"] > 0
    assert any("features" in values for _, values in totals(service.api.meters))


def test_shares_of_the_catalogue_give_the_same_bits(bpr: Service) -> None:
    """Partitions know nothing of features."""
    holder = ReleaseHolder(
        bpr.published.store,
        open_index=lambda release: PartitionedIndex(
            np.array(release.model.item_vectors), np.array(release.model.item_bias), partitions=3
        ),
    )
    holder.refresh()
    api = build_api(holder)
    parted = Service(bpr.published, holder, api, asked.Client(api))
    body = {"features": ANN, "k": 15, "exclude": [3]}
    assert parted.post(RECOMMENDATIONS, body).json() == bpr.post(RECOMMENDATIONS, body).json()


def test_a_lost_partition_is_not_tried_again_for_features(bpr: Service) -> None:
    """They have to be ranked, so the batch tells its loss at once; a known user with features has a stored list."""
    tries = []

    class Lost:
        def top_k(self, *_: Any, **__: Any) -> Any:
            tries.append(1)
            raise RequestError(503, "partition_unavailable", "a partition does not answer")

    service = served(bpr.published)
    service.holder.prepared = dataclasses.replace(bpr.holder.prepared, index=Lost())
    requests = [
        {"features": ANN},
        {"user_id": UNKNOWN_USER, "features": ANN},
        {"user_id": 0, "features": ANN},
        {},
    ]
    responses = service.post(RECOMMENDATIONS, {"requests": requests}).json()["responses"]
    assert ["error" in one for one in responses] == [True, True, False, False]
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("features", "said"),
    [
        ({"age": {"years": 3}}, f"body.features.age: {VALUES}, found a dict of 1"),
        ({"likes": [["art"]]}, f"body.features.likes: {VALUES}, found a list of 1"),
        ({"likes": [None, {}]}, f"body.features.likes: {VALUES}, found a list of 2"),
        ({"likes": ["x"] * 1001}, "body.features.likes: at most 1000 values in a list, found a list of 1001"),
        (["age"], "body.features"),
        (
            {f"f{place}": 1 for place in range(1001)},
            "body.features: Value error, at most 1000 features, not 1001",
        ),
    ],
)
def test_features_that_cannot_be_meant_are_422(bpr: Service, features: Any, said: str) -> None:
    """With their place."""
    status, code, message = refusal(bpr.post(RECOMMENDATIONS, {"features": features}))
    assert (status, code) == (422, "invalid_request")
    assert message.startswith(said)
    assert ";" not in message


def test_an_answer_is_not_longer_than_what_was_asked(bpr: Service) -> None:
    """Long names are cut, floats not written out, many unknown ones counted: no small body fetches much."""
    long = bpr.post(RECOMMENDATIONS, {"features": {"x" * 5_000: 1, "likes": ["y" * 5_000, 1e308]}}).json()
    assert long["unknown_features"] == ["likes=1e+308", "likes=" + "y" * 74, "x" * 80]
    assert "more_unknown_features" not in long
    for count, more in ((100, None), (101, 1), (900, 800)):
        answer = bpr.post(
            RECOMMENDATIONS, {"features": {"likes": [f"no{one:03}" for one in range(count)]}}
        ).json()
        assert answer["unknown_features"] == [f"likes=no{one:03}" for one in range(100)]
        assert answer.get("more_unknown_features") == more


def test_values_of_features_count_as_ids_do(bpr: Service) -> None:
    """One limit for all that a request names, alone and in a batch."""
    few = served(bpr.published, limits=LimitsSettings(ids=20))
    values = {"features": {"likes": ["art"] * 17, "age": 3}, "exclude": [3]}
    assert few.post(RECOMMENDATIONS, {"user_id": 0, **values}).status_code == 200
    for body in ({**values, "exclude": [3, 4, 5]}, {"requests": [{**values, "k": 1}] * 2}):
        status, code, message = refusal(few.post(RECOMMENDATIONS, body))
        assert (status, code) == (422, "too_many_ids")
        assert "ids and values of features; expected at most 20 in all" in message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400])
def test_what_is_no_finite_number_is_refused(bpr: Service, number: str) -> None:
    """Neither a 500 nor a list of nothing."""
    content = f'{{"features": {{"age": {number}}}}}'
    answer = bpr.ask("POST", RECOMMENDATIONS, content=content)
    assert answer.status_code in (400, 422)


@pytest.mark.parametrize("number", [1e300, -1e300, 1e18, 2**63, 10**30, 81, -21])
def test_a_number_far_off_counts_as_five_deviations(bpr: Service, number: float) -> None:
    """As in training: neither a refusal nor a list that nothing but one number made."""
    answer = bpr.post(RECOMMENDATIONS, {"features": {"age": number, "gender": "F"}, "k": made.N_ITEMS})
    assert answer.status_code == 200
    assert listed(answer.json()) == ranked(bpr, {0: 5.0 if number > 0 else -5.0, 1: 1.0})
    assert bpr.post(RECOMMENDATIONS, {"user_id": 0, "features": {"age": number}}).status_code == 200


def test_a_text_that_is_no_unicode_is_no_500(bpr: Service) -> None:
    """Half of a surrogate pair, which JSON can spell, in a name and in a value."""
    for content in (r'{"features": {"\ud800": 1}}', r'{"features": {"gender": "\ud800"}}'):
        answer = bpr.ask("POST", RECOMMENDATIONS, content=content)
        assert answer.status_code in (200, 400, 422)


def test_all_is_open_once_a_release_is_prepared(bpr: Service, tmp_path: Path) -> None:
    """A release whose files lose their names answers strangers on, as it does everybody."""
    published = made.copied(bpr.published, tmp_path)
    service = served(published)
    (published.folder / "arrays" / "user_feature_vectors.npy").unlink()
    answer = service.post(RECOMMENDATIONS, {"features": ANN, "k": 4}).json()
    assert answer == bpr.post(RECOMMENDATIONS, {"features": ANN, "k": 4}).json()
    assert prepare(bpr.published.release).features is not None


@pytest.mark.parametrize(
    ("link", "bounds", "kind", "rule"),
    [
        ("identity", (1.0, 5.0), "rating", None),
        ("identity", None, "rating", None),
        ("logistic", None, "probability", "weight>=4"),
    ],
)
def test_predictions_are_on_the_scale_of_the_model(
    tmp_path: Path, link: Any, bounds: tuple[float, float] | None, kind: str, rule: str | None
) -> None:
    """Score plus the user's own, cut to the model's bounds; or a probability, with its class told."""

    def change(model: FactorModel, interactions: Interactions) -> FactorModel:
        offset = np.linspace(-6, 9, len(model.user_offset)).astype(np.float32)
        return dataclasses.replace(model, link=link, bounds=bounds, user_offset=offset)

    train = {"model": "bpr", "params": {"factors": 8, "epochs": 3}}
    job = {"score": asked.SCORE, "label": "weight >= 4"}
    service = served(made.published_release(tmp_path, **job, train=train, change=change))
    model = service.published.release.model
    items = made.make_ids(made.N_ITEMS, kind="int64")
    users = [model.user_ids[row] for row in range(0, made.N_USERS, 3)]
    pairs = [{"user_id": user, "item_id": item} for user in users for item in items[::4]]
    answer = service.post(
        "/v1/predictions", {"pairs": [*pairs, {"user_id": UNKNOWN_USER, "item_id": 3}]}
    ).json()
    assert answer["kind"] == kind
    *known, stranger = answer["predictions"]
    assert (stranger["value"], stranger["reason"]) == (None, "unknown_user")
    values = []
    for one in known:
        user, item = model.user_ids.find(one["user_id"]), model.item_ids.find(one["item_id"])
        vectors = zip(model.user_vectors[user].tolist(), model.item_vectors[item].tolist(), strict=True)
        score = sum(left * right for left, right in vectors) + float(model.item_bias[item])
        values.append(score + float(model.user_offset[user]))
    assert min(values) < 1
    assert max(values) > 5
    assert answer.get("label_rule") == rule
    if link == "logistic":
        assert [one["value"] for one in known] == pytest.approx(
            [1 / (1 + np.exp(-value)) for value in values]
        )
        assert [one["label"] for one in known] == [value >= 0 for value in values]
        assert {one["label"] for one in known} == {True, False}
    else:
        low, high = (-np.inf, np.inf) if bounds is None else bounds
        assert [one["value"] for one in known] == pytest.approx(
            [min(max(value, low), high) for value in values]
        )
        assert not any("label" in one for one in known)
