"""The shape of a feature in a request, and how many there may be; what is wrong with one is told in one sentence."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

MOST_FEATURES = 1_000  # and values of one
MOST_UNKNOWN = 100  # told in an answer


def _one_sentence(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """What is wrong with a feature, once: a union tells what each of its branches thinks."""
    try:
        return check(value)
    except ValidationError:
        if isinstance(value, list) and len(value) > MOST_FEATURES:
            said = f"at most {MOST_FEATURES} values in a list"
        else:
            said = "expected a text, a number, true or false, null, or a list of them"
        raise PydanticCustomError("feature", said) from None


Whole = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
FeatureValue = bool | Whole | float | str | None
FeatureValues = Annotated[list[FeatureValue], Field(max_length=MOST_FEATURES, fail_fast=True)]
Feature = Annotated[FeatureValue | FeatureValues, WrapValidator(_one_sentence)]
