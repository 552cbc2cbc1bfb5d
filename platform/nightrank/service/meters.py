"""Meters."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


class Stats(BaseModel):
    """Stats."""


class Meters:
    """Meters."""

    def answered(self, *, route: str, source: str | None, status: int, seconds: float) -> None:
        """Count."""

    def swapped(self, outcome: str) -> None:
        """Count."""

    def told(self) -> dict[str, Any]:
        """Figures."""
        return {}
