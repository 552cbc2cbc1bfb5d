"""model.json: what the arrays beside it are, and the little of a model that is no array."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nightrank.config.rules import parse_rule
from nightrank.data.features import FeatureColumn
from nightrank.errors import ReleaseError
from nightrank.release.records import FileRecord
from nightrank.release.store import Store


class FeatureColumnRecord(BaseModel):
    """A `FeatureColumn` as JSON; scale is above 0, and a category stands there once."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: str
    values: tuple[str, ...] | None
    mean: float
    scale: float = Field(gt=0.0)

    @field_validator("values")
    @classmethod
    def _once(cls, values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if values is not None and len(set(values)) < len(values):
            raise ValueError("a category stands there twice")
        return values

    @classmethod
    def of(cls, column: FeatureColumn) -> Self:
        """The record of a column."""
        return cls(name=column.name, values=column.values, mean=column.mean, scale=column.scale)

    def column(self) -> FeatureColumn:
        """The column of a record."""
        return FeatureColumn(self.name, self.values, mean=self.mean, scale=self.scale)


def check_rule(label: str | None) -> str | None:
    """A rule as a release holds it: in its one spelling. Raises ValueError for any other text."""
    if label is not None and str(parse_rule(label)) != label:
        raise ValueError(f'found "{label}", expected the rule as "{parse_rule(label)}"')
    return label


def column_records(columns: Sequence[FeatureColumn]) -> tuple[FeatureColumnRecord, ...]:
    """The records of columns, in their order."""
    return tuple(FeatureColumnRecord.of(column) for column in columns)


class ModelCard(BaseModel):
    """model.json. bounds: what predictions are cut to. label: the rule of the class whose probability they are, such
    as weight>=4. user_features: the columns behind the vectors of features.

    Each is None where the model has none, and in releases of format version 3 or less.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    family: str
    params: dict[str, int | float | str]
    link: Literal["none", "identity", "logistic"]
    seed: int
    n_users: int
    n_items: int
    n_pairs: int
    n_buckets: int
    user_id_type: Literal["int64", "string"]
    item_id_type: Literal["int64", "string"]
    bounds: tuple[float, float] | None = None
    label: str | None = None
    user_features: tuple[FeatureColumnRecord, ...] | None = None
    files: dict[str, FileRecord]

    @field_validator("bounds")
    @classmethod
    def _rising(cls, bounds: tuple[float, float] | None) -> tuple[float, float] | None:
        if bounds is not None and bounds[0] > bounds[1]:
            raise ValueError(f"from {bounds[0]} to {bounds[1]}, expected the lower one first")
        return bounds

    @field_validator("label")
    @classmethod
    def _is_rule(cls, label: str | None) -> str | None:
        return check_rule(label)

    @field_validator("user_features")
    @classmethod
    def _once(cls, found: tuple[FeatureColumnRecord, ...] | None) -> tuple[FeatureColumnRecord, ...] | None:
        if found is not None and len({one.name for one in found}) < len(found):
            raise ValueError("a column stands there twice")
        return found

    @property
    def model_hash(self) -> str:
        """SHA-256 over the names and checksums of the arrays."""
        lines = "".join(f"{name} {self.files[name].sha256}\n" for name in sorted(self.files))
        return hashlib.sha256(lines.encode()).hexdigest()


def read_card(store: Store, key: str) -> ModelCard:
    """The card of the model below a key; ReleaseError where there is none or it cannot be read."""
    found = store.read(f"{key}/model.json")
    if found is None:
        raise ReleaseError(f"no model in {key}: model.json is missing; run the train stage first")
    return parsed_card(found.data, where=key)


def parsed_card(data: bytes, *, where: str) -> ModelCard:
    """A card from its JSON; ReleaseError where it is none."""
    try:
        return ModelCard.model_validate_json(data)
    except (ValidationError, json.JSONDecodeError) as error:
        raise ReleaseError(f"model.json in {where} is not a model card: {error}") from None
