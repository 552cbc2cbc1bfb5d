"""The answer of GET /v1/stats: what one replica counted (`Meters.told`), and how long stages of the night take."""

from __future__ import annotations

from pydantic import BaseModel, Field

from nightrank.service.job_schemas import StageSeconds


class Requests(BaseModel):
    """Requests answered, refused ones included. by_route: by route template; by_status: by HTTP status."""

    total: int
    by_route: dict[str, int]
    by_status: dict[str, int]


class Quantiles(BaseModel):
    """Latencies in ms that this share of the requests did not exceed, within 5 %; null where there were none."""

    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None


class Swaps(BaseModel):
    """Releases that were put in use, the first one included, and those that were refused."""

    done: int
    refused: int


class Activations(BaseModel):
    """Calls of `activate` that moved `CURRENT`, and those that were refused."""

    done: int
    refused: int


class Stats(BaseModel):
    """What the replica that answers has done since it started; another one may answer the next time."""

    replica: str | None = Field(description="as in the labels of the metrics; null outside Ray Serve")
    since: str = Field(description="when it started, UTC")
    release: str | None = Field(description="the one it answers from")
    release_age_s: float | None = Field(description="seconds since that release was made")
    requests: Requests
    by_source: dict[str, int] = Field(description="lists given, each of a batch counted, by their `source`")
    fallback_share: float | None = Field(description="share of `popular` among them; null before the first")
    latency_ms: dict[str, Quantiles] = Field(description="of `all` requests, and of single lists by `source`")
    swaps: Swaps
    activations: Activations
    stages: dict[str, StageSeconds] = Field(
        description="of the newest runs in the store, however they were started"
    )
