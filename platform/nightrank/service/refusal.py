"""A request that is refused: what is said over HTTP instead of an answer."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from nightrank.errors import NightrankError


class RequestError(NightrankError):
    """An HTTP status, a code for programs, a message for people (which names no place), and headers."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})


MOST_COMPARED = 1_000  # names: comparing takes a tenth of a second for so many


def close_to(name: str, known: Collection[str]) -> str:
    """The end of a message about a name that nobody knows: what it may have been meant to be."""
    if not known:
        return "none is known here"
    near = difflib.get_close_matches(name[:80], known, n=2) if len(known) <= MOST_COMPARED else []
    return f"did you mean {' or '.join(near)}?" if near else f"{len(known)} are known, none is close to it"
