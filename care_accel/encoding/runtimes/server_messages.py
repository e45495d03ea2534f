"""Requests to an inference server and its responses: pure functions shared by both clients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.encoding.base import checked_texts
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.runtimes.server_descriptions import ENCODERS, SEARCH, ServedEncoder, ServedSearch
from care_accel.encoding.runtimes.transports.interface import Answer, Inputs, Parameters
from care_accel.errors import CareError, require_count
from care_accel.files import replace_lone_surrogates

# In the JSON of a collection's document, next to the user's fields, whose names never begin with an underscore.
SPAN = "_span"
# A parameter of a search of a collection in shards: it may be answered while some of them are away.
PARTIAL = "partial"
# An output of the search of a collection in shards.
SHARE = "SHARE"
_MOST_K = 2**31 - 1
_TEXT_POSITION = re.compile(r"\b(TEXT|TASK|K|FILTER|SUBSET) (\d+) ")


_Result = TypeVar("_Result", "EncodeResult", "SearchResult")


class EncodeResult(NamedTuple):
    """Embeddings from a server, one row per text.

    Attributes
    ----------
    vectors : numpy.ndarray
        float32 ``[n, width]``.
    tokens : numpy.ndarray
        int32 ``[n]``: token count of each text.
    times : numpy.ndarray
        float32 ``[n, 2]``: server time in microseconds to tokenise and to encode the batch of each text; for a cached
        text, the look-up time.
    """

    vectors: NDArray[np.float32]
    tokens: NDArray[np.int32]
    times: NDArray[np.float32]


class SearchResult(NamedTuple):
    """Hits from a server, one row per query; fewer than k hits are padded with id -1, score -inf and None.

    Attributes
    ----------
    ids : numpy.ndarray
        int64 ``[n, k]``.
    scores : numpy.ndarray
        float32 ``[n, k]``.
    documents : list of list
        The stored document of each hit, None if none is stored.
    tokens : numpy.ndarray
        int32 ``[n]``: token count of each query.
    times : numpy.ndarray
        float32 ``[n, 3]``: server time in microseconds to tokenise, encode and scan the batch of each query.
    document_ids : list of list or None
        Of a collection: the user's id of each hit, None for padding.
    spans : list of list or None
        Of a collection: start and end of the chunk that matched, in characters of the document's text; None for a document in
        one chunk and for padding.
    shares : numpy.ndarray or None
        Of a collection in shards, float32 ``[n]``: for each query the share of the documents that were searched. It is below 1
        only where the server was told to give partial answers.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    documents: list[list[Any]]
    tokens: NDArray[np.int32]
    times: NDArray[np.float32]
    document_ids: list[list[str | None]] | None = None
    spans: list[list[tuple[int, int] | None]] | None = None
    shares: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class RequestPlan(Generic[_Result]):
    """Texts split into requests to one model.

    Attributes
    ----------
    model : str
    batches : list of list of int
        Positions of the texts of each request.
    parameters : mapping of str to bool
        Of each request.
    """

    model: str
    batches: list[list[int]]
    _texts: Sequence[str]
    _task: str
    _k: int | None
    _empty: _Result
    _read: Callable[[Answer, int], _Result]
    _filters: Sequence[str | None] | None = None
    _subset: NDArray[np.int64] | None = None
    parameters: Parameters = field(default_factory=dict)

    def inputs(self, batch: Sequence[int]) -> Inputs:
        """Return the inputs of a request."""
        filters = None if self._filters is None else [self._filters[i] or "" for i in batch]
        return _text_inputs([self._texts[i] for i in batch], self._task, self._k, filters, self._subset)

    def read(self, response: Answer, batch: Sequence[int]) -> _Result:
        """Read the response to a request.

        Raises
        ------
        CareError
            An output is missing, or has an unexpected shape or type.
        """
        return self._read(response, len(batch))

    def merge(self, results: Sequence[_Result]) -> _Result:
        """Merge the results of all requests, in the order of the texts."""
        if not results:
            return self._empty
        if len(results) == 1:  # in the order of the texts, as it was not split
            return results[0]
        order = np.argsort([i for batch in self.batches for i in batch])
        return type(results[0])(*(_reorder(parts, order) for parts in zip(*results, strict=True)))


def with_text_positions(error: ServerError, positions: Sequence[int]) -> ServerError:
    """Return an error with a text's position in a whole list instead of its position in a request.

    Parameters
    ----------
    error : ServerError
    positions : sequence of int
        Of each text of the request, in the whole list.
    """

    def replace(match: re.Match[str]) -> str:
        row = int(match[2])
        return f"{match[1]} {positions[row] if row < len(positions) else row} "

    if error.status != "INVALID_ARGUMENT":
        return error
    return ServerError(error.status, _TEXT_POSITION.sub(replace, str(error)))


def encode_plan(
    served: ServedEncoder, texts: Sequence[str], task: str, batch_size: int | None
) -> RequestPlan[EncodeResult]:
    """Split texts into requests to an encoder, of at most ``batch_size`` texts if given.

    Raises
    ------
    CareError
        A text is not a str (the message gives its position), or the size is below 1.
    """
    if batch_size is not None:
        require_count("batch_size", batch_size)
    texts = _checked(texts)
    batches = _split(texts, min(batch_size or served.max_batch_size, served.max_batch_size))
    empty = EncodeResult(
        np.empty((0, served.width), np.float32), np.empty(0, np.int32), np.empty((0, 2), np.float32)
    )
    read = partial(_read_vectors, width=served.width)
    return RequestPlan(ENCODERS[served.role], batches, texts, task, None, empty, read)


def search_plan(
    served: ServedSearch,
    texts: Sequence[str],
    k: int,
    task: str,
    filters: Sequence[str | None] | None = None,
    subset: ArrayLike | None = None,
    *,
    partial_answer: bool = False,
) -> RequestPlan[SearchResult]:
    """Split queries into requests to the search.

    Raises
    ------
    CareError
        A text is not a str (the message gives its position), ``k`` is not a positive integer, there are filters, and
        not one for each text or not of a collection, or a subset that is no array of positions or of a collection.
    """
    require_count("k", k)
    k = min(int(k), _MOST_K)  # the server rejects such a k anyway
    texts = _checked(texts)
    if filters is not None:
        if len(filters) != len(texts):
            raise CareError(
                f"{len(filters)} filters for {len(texts)} texts; give one, or None, for each text"
            )
        if not any(filters):
            filters = None
        elif not served.collection:
            raise ServerError(
                "INVALID_ARGUMENT", "the server's index is no collection: search it without a filter"
            )
    chosen = None if subset is None else _positions(subset, served)
    batches = _split(texts, served.max_batch_size)
    no_hits = np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    empty = SearchResult(
        *no_hits,
        [],
        np.empty(0, np.int32),
        np.empty((0, 3), np.float32),
        document_ids=[] if served.collection else None,
        spans=[] if served.collection else None,
    )
    read = partial(_read_hits, k=k, collection=served.collection)
    parameters = {PARTIAL: True} if partial_answer else {}
    return RequestPlan(SEARCH, batches, texts, task, k, empty, read, filters, chosen, parameters)


def _positions(subset: ArrayLike, served: ServedSearch) -> NDArray[np.int64]:
    """Return the positions of a subset as they are sent: one at least, as the server takes no empty row."""
    if served.collection:
        raise CareError(
            "the server's index is a collection, whose positions change: use a filter, not a subset"
        )
    chosen = np.asarray(subset)
    if chosen.dtype == bool and chosen.ndim == 1:
        chosen = np.flatnonzero(chosen)
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise CareError(
            f"subset is an array of {chosen.dtype} {list(chosen.shape)}; give a mask or integer ids [n]"
        )
    if chosen.size and (chosen.min() < 0 or chosen.max() > np.iinfo(np.int64).max):
        raise CareError(f"subset has {chosen.min()}, which is no position; they begin at 0")
    return np.unique(chosen).astype(np.int64) if chosen.size else np.full(1, -1, np.int64)


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise CareError("texts are a str; give a list of str")
    return checked_texts(texts)


def _split(texts: Sequence[str], size: int) -> list[list[int]]:
    """Split positions of texts into requests of at most ``size``, similar lengths together.

    A server pads the texts of a batch to the longest.
    """
    order = list(range(len(texts)))
    if len(order) > size:
        order.sort(key=lambda i: -len(texts[i]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _text_inputs(
    texts: Sequence[str],
    task: str,
    k: int | None,
    filters: Sequence[str] | None = None,
    subset: NDArray[np.int64] | None = None,
) -> Inputs:
    rows = len(texts)
    columns: dict[str, NDArray[Any]] = {
        "TEXT": _bytes_column([replace_lone_surrogates(text)[0] for text in texts])
    }
    # Omit defaults: the server only batches requests that have the same inputs.
    if task != "retrieval":
        columns["TASK"] = _bytes_column([task] * rows)
    if k is not None:
        columns["K"] = np.full((rows, 1), k, dtype=np.int32)
    if filters is not None:
        columns["FILTER"] = _bytes_column(filters)
    if subset is not None:
        columns["SUBSET"] = np.tile(subset, (rows, 1))
    return columns


def _bytes_column(texts: Sequence[str]) -> NDArray[np.object_]:
    column = np.empty((len(texts), 1), dtype=np.object_)
    column[:, 0] = [text.encode() for text in texts]
    return column


def _read_vectors(response: Answer, count: int, width: int) -> EncodeResult:
    vectors = _output(response, "EMBEDDING", np.float32, (count, width))
    return EncodeResult(vectors, *_read_costs(response, count, 2))


def _read_hits(response: Answer, count: int, k: int, *, collection: bool = False) -> SearchResult:
    documents = _output(response, "DOCUMENTS", np.object_, (count, k))
    values = _json_values(documents)
    ids, scores = (
        _output(response, name, kind, (count, k))
        for name, kind in (("IDS", np.int64), ("SCORES", np.float32))
    )
    costs = _read_costs(response, count, 3)
    if not collection:
        return SearchResult(ids, scores, values, *costs)
    raw = _output(response, "DOCUMENT_IDS", np.object_, (count, k))
    own = [[value.decode("utf-8", "replace") or None for value in row] for row in raw]
    spans = [[_span(value) for value in row] for row in values]
    shares = (
        None if response.as_numpy(SHARE) is None else _output(response, SHARE, np.float32, (count, 1))[:, 0]
    )
    return SearchResult(ids, scores, values, *costs, own, spans, shares)


def _json_values(texts: NDArray[np.object_]) -> list[list[Any]]:
    """Read JSON values ``[n, k]`` at once: one by one they take most of the time of a response."""
    rows, columns = texts.shape
    try:
        values = json.loads(b"[%b]" % b",".join(texts.ravel().tolist()))
        if len(values) != texts.size:
            raise ValueError(f"{len(values)} values instead of {texts.size}")
    except ValueError as cause:
        raise _unexpected(f"a document that is not a JSON value ({cause})") from None
    return [values[row * columns : (row + 1) * columns] for row in range(rows)]


def _span(document: Any) -> tuple[int, int] | None:
    """Take the span of a hit out of its document."""
    found = document.pop(SPAN, None) if isinstance(document, dict) else None
    return None if found is None else (int(found[0]), int(found[1]))


def _read_costs(response: Answer, count: int, steps: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    tokens = _output(response, "TOKENS", np.int32, (count, 1))[:, 0]
    return tokens, _output(response, "TIMES", np.float32, (count, steps))


def _output(response: Answer, name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        values = response.as_numpy(name)
    except ValueError as cause:
        raise _unexpected(f"an output {name} that cannot be read ({cause})") from None
    if values is None:
        raise _unexpected(f"no output {name}")
    if values.shape != shape or values.dtype != dtype:
        raise _unexpected(
            f"an output {name} of {values.dtype} {list(values.shape)}, not {np.dtype(dtype)} {list(shape)}"
        )
    return values


def _unexpected(what: str) -> CareError:
    return CareError(
        f"the inference server answered with {what}; write its model repository again with this release"
    )


def _reorder(parts: Sequence[Any], order: NDArray[np.intp]) -> Any:
    if parts[0] is None:
        return None
    if isinstance(parts[0], list):
        rows = [row for part in parts for row in part]
        return [rows[i] for i in order]
    return np.concatenate(parts)[order]
