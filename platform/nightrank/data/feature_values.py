"""What a request says of a feature, read as the cell of a table would be (`attribute_reading`, one value at a time).

Refused: nothing. What is missing is no text and no number; what cannot be read is told by the caller, `features`.
"""

from __future__ import annotations

import math
import re
from typing import Any

from nightrank.data.attribute_types import NUMBER, WHOLE
from nightrank.data.attributes import MISSING_TEXTS

_MISSING = frozenset(MISSING_TEXTS) | {""}
_NUMBER, _WHOLE = re.compile(NUMBER), re.compile(WHOLE)
_WHOLE_FLOAT = 2.0**53  # from here on a float written out has digits that nobody wrote
_MOST_DIGITS = 400  # of a text that is read as a number; floats end at 309 before the point


def category_text(value: str | int | float | bool) -> str:
    """A value as the text of a category: true and false, whole numbers without a point, texts as they are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) <= _WHOLE_FLOAT:
        return str(int(value))
    return str(value)


def texts_of(value: Any) -> list[str]:
    """What is given of a column as texts, trimmed, each once, without what is missing."""
    given = value if isinstance(value, list) else [value]
    texts = dict.fromkeys(category_text(one).strip() for one in given if one is not None)
    return [one for one in texts if one not in _MISSING]


def number_of(value: Any) -> float | None:
    """A number, a text that is written as one, or a list of one of them; NaN where that is missing, in any spelling;
    None where it is no finite number."""
    given = [one for one in (value if isinstance(value, list) else [value]) if texts_of(one)]
    if len(given) != 1 or isinstance(given[0], bool):
        return None
    if isinstance(given[0], str):
        text = given[0].strip()
        if len(text) > _MOST_DIGITS or _NUMBER.fullmatch(text) is None:
            return None
        number = float(text)
    else:
        number = float(given[0])
    return None if math.isinf(number) else number


def are_booleans(values: tuple[str, ...]) -> bool:
    """Whether these categories are true and false."""
    return 0 < len(values) == len({"true", "false"} & set(values))


def are_whole(values: tuple[str, ...]) -> bool:
    """Whether each of these categories is a whole number."""
    return len(values) > 0 and all(map(_WHOLE.fullmatch, values))


def alike(text: str, *, booleans: bool, whole: bool) -> str:
    """What a text that is no category is in a table: True is true where the categories are `booleans`, 24.0 is 24
    where they are `whole` numbers. Otherwise the text itself."""
    if booleans and text.lower() in ("true", "false"):
        return text.lower()
    number = number_of(text) if whole else None
    return text if number is None or math.isnan(number) else category_text(number)
