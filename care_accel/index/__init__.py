"""Indexes: vectors, or the text of documents, to hits."""

from care_accel.index.approximate import ApproximateIndex
from care_accel.index.bm25 import BM25Index
from care_accel.index.exact import ExactIndex
from care_accel.index.lexical.lexical_index import LexicalIndex
from care_accel.index.parts import SearchStats
from care_accel.index.protocol import VectorIndex, load_index
from care_accel.index.shards import Shards

__all__ = [
    "ApproximateIndex",
    "BM25Index",
    "ExactIndex",
    "LexicalIndex",
    "SearchStats",
    "Shards",
    "VectorIndex",
    "load_index",
]
