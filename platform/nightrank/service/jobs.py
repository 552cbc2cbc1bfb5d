"""Jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel

from nightrank.config.service import JobsSettings


class JobRequest(BaseModel):
    """Request."""

    stage: Literal["train"]


class JobSubmitted(BaseModel):
    """Submitted."""


class JobState(BaseModel):
    """State."""


class Jobs:
    """Jobs."""

    def __init__(self, settings: JobsSettings, *, told: Callable[[str], str]) -> None:
        self.settings = settings

    def submit(self, request: JobRequest) -> JobSubmitted:
        """Submit."""
        raise NotImplementedError

    def state(self, id: str) -> JobState:
        """State."""
        raise NotImplementedError

    def durations(self) -> dict[str, Any]:
        """Durations."""
        return {}
