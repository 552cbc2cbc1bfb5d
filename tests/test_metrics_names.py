"""Names of metrics: what a list of them means, and what is refused in which words."""

from __future__ import annotations

import pytest

from nightrank.quality.metrics import METRICS
from nightrank.quality.names import KINDS, MetricSpec, largest_k, parse_metrics

DESIGN = (
    "recall@20,ndcg@20,map@20,precision@5,hr@10,mrr@10,rank_auc,coverage@10,novelty@10,gini@10,mean_popularity@10,"
    "rmse,mae,auc,logloss,accuracy"
)


def test_every_name_of_the_design_is_read_and_said_again() -> None:
    """Protects `--metrics`: each documented name is known, and its text is the key of the answer."""
    specs = parse_metrics(DESIGN)
    assert ",".join(str(spec) for spec in specs) == DESIGN
    assert {spec.name for spec in specs} == KINDS.keys()
    assert largest_k(specs) == 20
    assert largest_k(parse_metrics("rmse,rank_auc")) == 0
    assert {spec.name for spec in specs if spec.needs_rule} == {"auc", "logloss", "accuracy"}


def test_ranked_names_are_those_of_the_sweep() -> None:
    """Protects one catalogue of ranking metrics: what a sweep can maximise, evaluate can measure."""
    assert {name for name, kind in KINDS.items() if kind == "ranked"} == METRICS.keys()


def test_blanks_and_many_cut_offs() -> None:
    """Protects lists written by hand: blanks are dropped, the same name at another k is another metric."""
    assert parse_metrics(" ndcg@5 , ndcg@10 ,mae ") == (
        MetricSpec("ndcg", 5),
        MetricSpec("ndcg", 10),
        MetricSpec("mae"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recal@20", r'found "recal@20", which is no metric; did you mean .*recall'),
        ("NDCG@10", r'found "NDCG@10", which is no metric; did you mean ndcg'),
        ("rank-auc", r"did you mean rank_auc"),
        ("recall", r'found "recall" without a cut-off, expected recall@k with k >= 1, such as recall@20'),
        ("coverage", r"expected coverage@k"),
        ("recall@0", r'found "recall@0", expected recall@k with a whole number k from 1 to 10,000'),
        ("recall@10001", "whole number k from 1 to 10,000"),
        ("recall@99999999999", "whole number k from 1 to 10,000"),
        ("recall@-1", r"whole number k from 1 to 10,000"),
        ("recall@", r"whole number k from 1 to 10,000"),
        ("recall@1.5", r"whole number k from 1 to 10,000"),
        ("recall@1@2", r"whole number k from 1 to 10,000"),
        ("recall@1_0", r"whole number k from 1 to 10,000"),
        ("recall@²", r"whole number k from 1 to 10,000"),
        ("rmse@10", r'found "rmse@10", expected rmse without @k'),
        ("rank_auc@10", r"expected rank_auc without @k"),
        ("rmse,rmse", r'found rmse twice in "rmse,rmse"'),
        ("ndcg@5,ndcg@05", r"found ndcg@5 twice"),
        ("", r'found a metric without a name in "", expected names such as'),
        ("rmse,", r"found a metric without a name"),
        ("@20", r"found a metric without a name"),
    ],
)
def test_what_is_refused(text: str, message: str) -> None:
    """Protects users from a silent other metric: found, expected, nearest."""
    with pytest.raises(ValueError, match=message):
        parse_metrics(text)
