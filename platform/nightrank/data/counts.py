"""What was read and what did not count: nothing leaves the events without a number here."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Counts:
    """files, rows: what was read. empty_files: files without a row, skipped. time_forms: how times came.

    Kept, and worth knowing: zero_weights (events whose weight is 0), future_times (more than a day ahead of the
    clock). Left out first: suppressed_users, people who were erased, with their suppressed_events. Dropped by
    events.min_events_per_item, then by events.min_events_per_user: rare_items with their rare_item_events,
    rare_users with their rare_user_events. zero_pairs: pairs that combined to 0, dropped.
    """

    files: int = 0
    empty_files: int = 0
    rows: int = 0
    time_forms: tuple[str, ...] = ()
    zero_weights: int = 0
    future_times: int = 0
    suppressed_users: int = 0
    suppressed_events: int = 0
    rare_items: int = 0
    rare_item_events: int = 0
    rare_users: int = 0
    rare_user_events: int = 0
    zero_pairs: int = 0

    @property
    def dropped_events(self) -> int:
        """Events of users and items that are too rare."""
        return self.rare_item_events + self.rare_user_events

    def as_dict(self) -> dict[str, int | list[str]]:
        """Plain values, for a record."""
        return {**asdict(self), "time_forms": list(self.time_forms)}
