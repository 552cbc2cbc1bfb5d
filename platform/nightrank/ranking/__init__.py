"""Exact ranking: the engine that evaluation, batch and serving share."""

from nightrank.ranking.index import ItemIndex
from nightrank.ranking.partitions import PartitionedIndex
from nightrank.ranking.topk import TopK

__all__ = ["ItemIndex", "PartitionedIndex", "TopK"]
