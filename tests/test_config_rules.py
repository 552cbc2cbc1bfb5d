"""Rules such as weight>=4: which weights they hold for, and which texts are none."""

from __future__ import annotations

import numpy as np
import pytest

from nightrank.config.rules import Rule, parse_rule


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("weight>=4", [False, True, True, False]),
        (" weight > 4.0 ", [False, False, True, False]),
        ("weight<=4", [True, True, False, False]),
        ("weight<4", [True, False, False, False]),
        ("weight==4", [False, True, False, False]),
    ],
)
def test_rules_hold_for_the_right_weights(text, holds):
    """Each operator does what it says; NaN satisfies none."""
    assert parse_rule(text).holds(np.array([3, 4, 5, np.nan], dtype=np.float32)).tolist() == holds


def test_rules_compare_in_the_precision_of_the_weights():
    """0.1 in a rule equals 0.1 in float32 events, and -1e-3 is a number."""
    assert parse_rule("weight==0.1").holds(np.array([0.1], dtype=np.float32)).all()
    assert parse_rule("weight>-1e-3") == Rule(">", -0.001)


@pytest.mark.parametrize(
    "text",
    [
        "", "weight", "weight>=", ">=4", "weight=>4", "weight=4", "weight>=x", "weight>=nan", "weight>=inf",
        "score>=4", "weight>=4 and weight<5", "4<=weight",
    ],
)  # fmt: skip
def test_rules_that_are_none_are_refused(text):
    """Only weight, an operator and a finite number; the message quotes the text."""
    with pytest.raises(ValueError, match="expected weight, one of") as caught:
        parse_rule(text)
    assert f'"{text}"' in str(caught.value)
