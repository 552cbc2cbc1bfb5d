"""Releases: one immutable folder with everything a night publishes."""

from nightrank.release.reader import Release, open_release
from nightrank.release.store import Store, open_store

__all__ = ["Release", "Store", "open_release", "open_store"]
