"""Mappings into frozen pydantic models, with errors a person can act on.

`StrictModel` takes no unknown key and coerces nothing (no "3" for 3, no true for 1, no NaN); only a whole
number may stand where a float is expected. `validate` turns everything pydantic finds into one
SettingsError: file, dotted key, value found, what was expected, nearest known key. Nothing is dropped or
repaired.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from nightrank.config.overrides import apply_overrides
from nightrank.config.problems import Key, Problem, ProblemsError, nearest, settings_error, shown
from nightrank.config.reading import expand_variables, read_mapping


class StrictModel(BaseModel):
    """Base of every settings model: closed, frozen, no coercion, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=StrictModel)

_SINGLE = (str, int, float, bool, types.NoneType)  # what has no keys below it

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a text (quote it if it looks like a number)",
    "dict_type": "a mapping (`key: value` lines)",
    "model_type": "a mapping (`key: value` lines)",
    "model_attributes_type": "a mapping (`key: value` lines)",
    "list_type": "a list",
    "tuple_type": "a list",
    "string_too_short": "a text that is not empty",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def load(model: type[Model], path: Path, *, overrides: Sequence[str] = ()) -> Model:
    """The file as a model: read, overridden, variables expanded, validated. Raises SettingsError."""
    raw = read_mapping(path)
    origins: dict[Key, str] = {}
    if overrides:
        raw, origins = apply_overrides(
            raw, overrides, known=lambda key: known_keys(model, key), source=str(path)
        )
    return validate(model, expand_variables(raw, source=str(path)), source=str(path), origins=origins)


def validate(
    model: type[Model], raw: Any, *, source: str, prefix: Key = (), origins: Mapping[Key, str] | None = None
) -> Model:
    """A model from plain values. Raises SettingsError with every problem found.

    `prefix` is where the values stand in their file, `origins` which `--set` gave a key.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        found = [problem for details in error.errors() for problem in describe(model, details)]
        placed = [Problem((*prefix, *p.key), p.text + _origin(p.key, origins or {})) for p in found]
        raise settings_error(source, placed) from None


def known_keys(model: type[BaseModel], key: Key) -> tuple[str, ...] | None:
    """The keys that may stand under `key`; None where any key may, an empty tuple where none can."""
    annotation: Any = model
    for part in key:
        annotation = _inside(annotation, part)
        if annotation is Any:
            return None
    choices = _choices(annotation)
    for choice in choices:
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            return tuple(choice.model_fields)
    single = all(choice in _SINGLE or get_origin(choice) is typing.Literal for choice in choices)
    return () if single else None


def describe(model: type[BaseModel], details: ErrorDetails) -> list[Problem]:
    """One of pydantic's errors in our words: found, expected, nearest."""
    key = tuple(part for part in details["loc"] if part != "[key]")
    kind, found = details["type"], details["input"]
    error = details.get("ctx", {}).get("error")
    if isinstance(error, ProblemsError):
        return [Problem((*key, *inner.key), inner.text) for inner in error.problems]
    if kind == "value_error":
        return [Problem(key, str(error))]
    if kind == "missing":
        return [Problem(key, "missing; this key is required")]
    if kind == "extra_forbidden":
        return [Problem(key, _unknown(model, key, found))]
    if kind == "invalid_key" or details["loc"][-1:] == ("[key]",):
        return [Problem(key, f"found the key {shown(key[-1])}, expected a text as key (quote it)")]
    return [Problem(key, f"found {shown(found)}, expected {_expected(details)}")]


def _expected(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"{words} {context[name]}"
    if kind == "literal_error":
        return f"{context['expected']}"
    return _EXPECTED.get(kind, details["msg"])


def _unknown(model: type[BaseModel], key: Key, found: Any) -> str:
    owner = _model_at(model, key[:-1])
    known = () if owner is None else tuple(owner.model_fields)
    return f"unknown key (found {shown(found)}); {nearest(key[-1], known)}"


def _origin(key: Key, origins: Mapping[Key, str]) -> str:
    for given, text in origins.items():
        if key[: len(given)] == given:
            return f" (from --set {text})"
    return ""


def _model_at(model: type[BaseModel], key: Key) -> type[BaseModel] | None:
    annotation: Any = model
    for part in key:
        annotation = _inside(annotation, part)
    models = [c for c in _choices(annotation) if isinstance(c, type) and issubclass(c, BaseModel)]
    return models[0] if models else None


def _inside(annotation: Any, part: str | int) -> Any:
    """The type under one more key: a model's field, a dict's value, a list's item; Any where none is said."""
    choices = _choices(annotation)
    for choice in choices:
        if isinstance(choice, type) and issubclass(choice, BaseModel):
            field = choice.model_fields.get(str(part))
            return Any if field is None else field.annotation
    for choice in choices:
        arguments = get_args(choice)
        if arguments and get_origin(choice) in (dict, list):
            return arguments[-1]
    return Any


def _choices(annotation: Any) -> tuple[Any, ...]:
    origin = get_origin(annotation)
    if origin is typing.Annotated:
        return _choices(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return tuple(choice for part in get_args(annotation) for choice in _choices(part))
    return (annotation,)
