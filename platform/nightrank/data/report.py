"""What a job's events look like, before anybody trains on them: the numbers of `nightrank data check`.

Pure: events as read and a job's rules in, one report out. It says what training would see (users, items and pairs
after weighing and dropping) beside what the files hold (rows, types, times), what a practitioner would doubt
(`doubts`), and what makes training meaningless (`problems`). It changes nothing and drops nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nightrank.config.events import WeighingConfig
from nightrank.config.split import SplitConfig
from nightrank.data.counts import Counts
from nightrank.data.doubts import Doubt, doubts_of
from nightrank.data.events import Events
from nightrank.data.grouping import chunks_of, occurrences
from nightrank.data.interactions import Interactions
from nightrank.data.metadata import Metadata
from nightrank.data.metadata_counts import MetadataCounts, metadata_counts
from nightrank.data.metadata_doubts import metadata_doubts, metadata_problems
from nightrank.data.pools import Pool, pool_of
from nightrank.data.splits import hold_out
from nightrank.errors import DataError

QUANTILES = {"min": 0.0, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
_SPREAD = {"min": 0.0, "median": 0.5, "max": 1.0}
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Outlook:
    """What the models of a job would find. class_share: as in `Report`. problems: why none of them can be fitted."""

    class_share: float | None = None
    doubts: Sequence[Doubt] = ()
    problems: Sequence[str] = ()


# Of the pairs, by how they combine, and what of the metadata counts.
OutlookOf = Callable[[Mapping[str, Interactions], MetadataCounts | None], Outlook]


@dataclass(frozen=True)
class Report:
    """The numbers of a check.

    counts: what was read and dropped. duplicate_rows: rows equal to an earlier one in every mapped column, kept.
    users, items, pairs, density (pairs / (users x items)), pair_weights: what training would see; 0 and None where
    nothing is left. class_share: of the pairs, those of the job's class; None without a label.
    events_by_type: None without a type column. event_weights: as read, before types and decay.
    events_per_user, events_per_item, single_event_users and _items (shares): of the rows as read.
    held_out_users, held_out_pairs: those of the test split that can be measured, its truth; 0 where it is refused.
    unknown_users: users with held-out pairs and none to train on. first, last: ISO 8601 UTC, None without times.
    metadata: of the features that the job names, for what training would see; None where there is nothing to see.
    """

    counts: Counts
    duplicate_rows: int
    users: int
    items: int
    pairs: int
    density: float
    held_out_users: int
    held_out_pairs: int
    unknown_users: int
    events_by_type: Mapping[str, int] | None
    event_weights: Numbers
    pair_weights: Numbers | None
    class_share: float | None
    events_per_user: Numbers
    events_per_item: Numbers
    single_event_users: float
    single_event_items: float
    first: str | None
    last: str | None
    metadata: MetadataCounts | None
    warnings: tuple[Doubt, ...]
    problems: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        warnings = [doubt._asdict() for doubt in self.warnings]
        return {
            **asdict(self),
            "counts": self.counts.as_dict(),
            "metadata": None if self.metadata is None else self.metadata.as_dict(),
            "warnings": warnings,
            "problems": list(self.problems),
        }


def report_of(  # noqa: PLR0913  what a job says of its events, by name
    events: Events,
    rules: WeighingConfig,
    *,
    how: SplitConfig,
    seed: int = 0,
    defaults: Sequence[str] = ("sum",),
    has_sweep: bool = False,
    metadata: Metadata | None = None,
    outlook_of: OutlookOf | None = None,
) -> Report:
    """The report on a job's events; what a night would refuse is a problem in it.

    how, seed: the job's split. defaults: as for `pool_of`. has_sweep: the night holds out twice. metadata: what is
    known of users and items beside events. outlook_of: tells the outlook of the job's models.
    """
    per_user = occurrences(events.users, len(events.user_ids))
    per_user = per_user[per_user > 0]  # an id without events is left of people who were erased
    per_item = occurrences(events.items, len(events.item_ids))
    per_item = per_item[per_item > 0]
    types = _by_type(events)
    pool, reason = _trainable(events, rules, how=how, seed=seed, defaults=defaults)
    found = None if pool is None else pool.first
    test, problems = (_Test(), [reason]) if pool is None else _held_out(pool, has_sweep=has_sweep)
    duplicates = _n_duplicates(events)
    known = None if found is None or metadata is None else metadata_counts(found, metadata)
    first, last = _time_range(events)
    n_users, n_items = (0, 0) if found is None else found.user_items.shape
    n_pairs = 0 if found is None else found.user_items.nnz
    outlook = Outlook() if pool is None or outlook_of is None else outlook_of(pool.pairs, known)
    return Report(
        counts=events.counts if found is None else found.counts,
        duplicate_rows=duplicates,
        users=n_users,
        items=n_items,
        pairs=n_pairs,
        density=n_pairs / (n_users * n_items) if found is not None else 0.0,
        held_out_users=test.users,
        held_out_pairs=test.pairs,
        unknown_users=test.unknown_users,
        events_by_type=types,
        event_weights=_quantiles(np.ones(1) if events.weights is None else events.weights, _SPREAD),
        pair_weights=None if found is None else _quantiles(found.user_items.data, _SPREAD),
        class_share=outlook.class_share,
        events_per_user=_quantiles(per_user, QUANTILES),
        events_per_item=_quantiles(per_item, QUANTILES),
        single_event_users=float(np.mean(per_user == 1)),
        single_event_items=float(np.mean(per_item == 1)),
        first=first,
        last=last,
        metadata=known,
        warnings=(
            *doubts_of(events, found, rules, types=types or {}, n_duplicates=duplicates),
            *metadata_doubts(metadata, known),
            *outlook.doubts,
        ),
        problems=(
            *([] if found is None else [*_too_few(found), *metadata_problems(found, metadata, known)]),
            *problems,
            *outlook.problems,
        ),
    )


def _trainable(
    events: Events, rules: WeighingConfig, *, how: SplitConfig, seed: int, defaults: Sequence[str]
) -> tuple[Pool | None, str]:
    """What training would see; where nothing is left, None and the reason."""
    try:
        return pool_of(events, rules, how=how, seed=seed, defaults=defaults), ""
    except DataError as error:
        return None, str(error)


def _too_few(found: Interactions) -> list[str]:
    return [
        f"{count} {what} left: nothing can be recommended to anybody; expected 2 or more: check the columns, "
        "and lower events.min_events_per_user and events.min_events_per_item"
        for what, count in (("user(s)", len(found.user_ids)), ("item(s)", len(found.item_ids)))
        if count < 2
    ]


@dataclass(frozen=True)
class _Test:
    """The size of a test split."""

    users: int = 0
    pairs: int = 0
    unknown_users: int = 0


def _held_out(pool: Pool, *, has_sweep: bool) -> tuple[_Test, list[str]]:
    """What the test split can measure, and why it, or the validation split of a sweep, would be refused."""
    try:
        test = hold_out(pool)
    except DataError as error:
        return _Test(), [str(error)]
    split = next(iter(test.splits.values()))
    users = int(np.count_nonzero(np.diff(split.truth.indptr)))
    found = _Test(users=users, pairs=split.truth.nnz, unknown_users=split.n_unknown_users)
    if has_sweep:
        try:
            hold_out(test.rest)
        except DataError as error:
            cure = "or name a model in train.model, which needs one split only"
            return found, [
                f"the validation split of the sweep, in what the test split leaves: {error}; {cure}"
            ]
    return found, []


def _by_type(events: Events) -> dict[str, int] | None:
    """Type to number of events, the most frequent first."""
    if events.types is None:
        return None
    counts = occurrences(events.types, len(events.type_names)).tolist()
    return dict(sorted(zip(events.type_names, counts, strict=True), key=lambda entry: (-entry[1], entry[0])))


def _n_duplicates(events: Events) -> int:
    """Events that are equal to an earlier one in every column."""
    found = 0
    for chunk in chunks_of(events):
        columns = [chunk.users, chunk.items, chunk.times, chunk.weights]
        columns += [] if events.types is None else [events.types[chunk.events]]
        given = [column for column in columns if column is not None]
        if events.types is not None:
            order = np.lexsort(given[::-1])
            given = [column[order] for column in given]
        found += int(np.count_nonzero(np.all([column[1:] == column[:-1] for column in given], axis=0)))
    return found


def _quantiles(values: NDArray[Any], shares: Mapping[str, float]) -> dict[str, float]:
    found = np.quantile(values.astype(np.float64), list(shares.values()))
    return {name: round(float(value), 6) for name, value in zip(shares, found, strict=True)}


def _time_range(events: Events) -> tuple[str | None, str | None]:
    if events.times is None:
        return None, None
    return _iso(int(events.times.min())), _iso(int(events.times.max()))


def _iso(seconds: int) -> str:
    """ISO 8601; the plain number where it is beyond the calendar of Python (the year 9999)."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return str(seconds)
