"""A request that is refused: what is said over HTTP instead of an answer."""

from __future__ import annotations

from collections.abc import Mapping

from nightrank.errors import NightrankError


class RequestError(NightrankError):
    """An HTTP status, a code for programs, a message for people (which names no place), and headers."""

    def __init__(
        self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})
