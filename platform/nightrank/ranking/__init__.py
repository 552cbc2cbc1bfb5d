"""Exact ranking: the engine that evaluation, batch and serving share."""

from nightrank.ranking.index import ItemIndex
from nightrank.ranking.topk import TopK

__all__ = ["ItemIndex", "TopK"]
