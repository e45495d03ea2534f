"""What goes between a router and its shards, and what comes out for a user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.index.lexical.statistics import WordStatistics
from care_accel.retriever import Hit


class Request(NamedTuple):
    """A search of one shard, at one version.

    Attributes
    ----------
    version : int
    k : int
    group : bool
    filter : str or None
    vectors : numpy.ndarray or None
        float32 ``[n, width]``: rank by vectors; None to rank by words.
    queries : tuple of str
        Their texts, where the collection has a lexical index.
    statistics : WordStatistics or None
        Of the whole collection, to rank by words; None to be told those of the shard.
    documents : bool
        Whether hits come with their documents.
    """

    version: int
    k: int
    group: bool
    filter: str | None
    vectors: NDArray[np.float32] | None
    queries: tuple[str, ...] = ()
    statistics: WordStatistics | None = None
    documents: bool = True


class Document(NamedTuple):
    """The row of a hit, and the span of its chunk in the text, None if it is the whole text."""

    row: dict[str, Any]
    span: tuple[int, int] | None


class Candidate(NamedTuple):
    """A hit of a shard; the best are those that sort first by ``(-score, id, chunk)``.

    Attributes
    ----------
    id : str
    chunk : int
        Its number in the document.
    score : float
        In float64.
    position : int
        In the shard's version.
    document : Document, callable or None
        A callable returns it: of most candidates nobody asks.
    """

    id: str
    chunk: int
    score: float
    position: int
    document: Document | Callable[[], Document] | None = None


class Found(NamedTuple):
    """What a shard has found: for each query its best candidates, and the number of documents among which.

    ``statistics`` are the shard's own of the queries' words, if they were asked for.
    """

    hits: list[list[Candidate]]
    documents: int
    statistics: WordStatistics | None = None


class Missing(NamedTuple):
    """A replica does not have the version that was asked for; it begins to load it."""

    version: int


class Refused(NamedTuple):
    """What was asked for is wrong, in every replica."""

    message: str


class Loaded(NamedTuple):
    """Whether a replica has a version, and its name."""

    replica: str
    ready: bool
    error: str = ""


class Newest(NamedTuple):
    """A version of a collection, and the number of its documents."""

    version: int
    documents: int


@dataclass(frozen=True)
class Answer:
    """Hits of several queries from one version of the collection.

    Attributes
    ----------
    hits : list of list of Hit
    version : int
    share : float
        Of the collection's documents, those that were searched: 1 if all shards answered.
    positions : list of list of int
        For each hit, a number that no other chunk of the version has.
    """

    hits: list[list[Hit]]
    version: int
    share: float
    positions: list[list[int]]

    @property
    def partial(self) -> bool:
        """Whether a shard did not answer."""
        return self.share < 1
