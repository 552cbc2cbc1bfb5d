"""API keys."""

from __future__ import annotations

from pathlib import Path


class Keys:
    """Keys."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refresh(self) -> None:
        """Refresh."""

    def role(self, authorization: bytes | None) -> str | None:
        """Role."""
        return None
