"""What goes between a gateway and the inference servers of shards, as tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.cluster.shards.answers import Candidate, Document, Found, Loaded, Missing, Newest, Request
from care_accel.encoding.runtimes.server_messages import SPAN
from care_accel.errors import CareError
from care_accel.serving.backend.hits import read_expressions

Arrays = Mapping[str, NDArray[Any]]
# Of a search that a shard cannot answer at this version, as the number of its documents.
_MISSING = -1


class Part(NamedTuple):
    """Which part of which collection a server has.

    Attributes
    ----------
    uuid : str
        Of the collection.
    number, of : int
        Of the shard, from 0, and their number.
    """

    uuid: str
    number: int
    of: int

    def __str__(self) -> str:
        return f"shard {self.number + 1}/{self.of}"

    @property
    def key(self) -> str:
        """What every request says: a server that has another part refuses it."""
        return f"{self.uuid} {self.number}/{self.of}"


class State(NamedTuple):
    """Whether a server has a version of its part, and which is the newest of the collection."""

    loaded: Loaded
    newest: Newest


class Asked(NamedTuple):
    """A request as a server reads it.

    Attributes
    ----------
    part : str
        `Part.key` of the part that is meant.
    version : int
        Below 1 in a request for the state alone.
    search : Request or None
        None to load the version, and to be told the state.
    """

    part: str
    version: int
    search: Request | None


def state_inputs(part: Part, version: int) -> dict[str, NDArray[Any]]:
    """Return the inputs of a request that has a version loaded, if it is above 0, and asks for the state."""
    return {"PART": _texts(part.key, 1), "VERSION": np.full((1, 1), version, np.int64)}


def search_inputs(part: Part, request: Request, rows: slice) -> dict[str, NDArray[Any]]:
    """Return the inputs of a search for some rows of a request."""
    assert request.vectors is not None
    vectors = np.ascontiguousarray(request.vectors[rows], np.float32)
    count = len(vectors)
    inputs = {
        "PART": _texts(part.key, count),
        "VERSION": np.full((count, 1), request.version, np.int64),
        "EMBEDDING": vectors,
        "K": np.full((count, 1), request.k, np.int32),
        "GROUP": np.full((count, 1), request.group, np.bool_),
    }
    if request.filter is not None:
        inputs["FILTER"] = _texts(request.filter, count)
    return inputs


def read_inputs(inputs: Arrays) -> Asked:
    """Return a request from its inputs.

    Raises
    ------
    CareError
        One is missing, or rows of one request differ in more than their vectors.
    """
    part, version = _only(inputs, "PART").decode("utf-8", "replace"), int(_only(inputs, "VERSION"))
    vectors = inputs.get("EMBEDDING")
    if vectors is None:
        return Asked(part, version, None)
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise CareError(f"EMBEDDING {int(np.argmin(finite))} has a value that is not finite")
    filters = set(read_expressions(inputs.get("FILTER"), len(vectors)))
    if len(filters) > 1:
        raise CareError("FILTER differs between the rows of a request; send one request for each")
    k, group = int(_only(inputs, "K")), bool(_only(inputs, "GROUP"))
    return Asked(part, version, Request(version, k, group, filters.pop(), vectors))


def _only(inputs: Arrays, name: str) -> Any:
    """Return the value that all rows have."""
    if name not in inputs:
        raise CareError(f"{name} is missing; it is expected in every request")
    values = inputs[name].ravel()
    if not (values == values[0]).all():
        raise CareError(f"{name} differs between the rows of a request; send one request for each")
    return values[0]


def found_outputs(found: Found, raw: list[list[bytes]]) -> dict[str, NDArray[Any]]:
    """Return the outputs of a search: hits filled up to as many as the row with most has.

    Parameters
    ----------
    found : Found
    raw : list of list of bytes
        The document of each hit as JSON.
    """
    shape = len(found.hits), max(1, *map(len, found.hits))
    scores, ids = np.full(shape, -np.inf, np.float64), np.full(shape, -1, np.int64)
    chunks = np.zeros(shape, np.int32)
    names, documents = np.full(shape, b"", np.object_), np.full(shape, b"null", np.object_)
    for row, (hits, own) in enumerate(zip(found.hits, raw, strict=True)):
        for place, (hit, document) in enumerate(zip(hits, own, strict=True)):
            scores[row, place], ids[row, place], chunks[row, place] = hit.score, hit.position, hit.chunk
            names[row, place], documents[row, place] = hit.id.encode(), document
    return {
        "SCORES": scores,
        "IDS": ids,
        "CHUNKS": chunks,
        "DOCUMENT_IDS": names,
        "DOCUMENTS": documents,
        "COUNT": np.full((shape[0], 1), found.documents, np.int64),
    }


def missing_outputs(rows: int) -> dict[str, NDArray[Any]]:
    """Return the outputs of a search at a version that is not there, or of another part."""
    return {"COUNT": np.full((rows, 1), _MISSING, np.int64)}


def read_found(outputs: Arrays, version: int) -> Found | Missing:
    """Return what a shard has found from the outputs of a search.

    Raises
    ------
    CareError
        One is missing.
    """
    count = int(_output(outputs, "COUNT").ravel()[0])
    if count == _MISSING:
        return Missing(version)
    scores, ids, chunks, names, documents = (
        _output(outputs, name) for name in ("SCORES", "IDS", "CHUNKS", "DOCUMENT_IDS", "DOCUMENTS")
    )
    counts = (ids >= 0).sum(axis=1).tolist()
    hits = [
        [
            Candidate(name.decode(), chunk, score, position, partial(_read_document, raw))
            for name, chunk, score, position, raw in zip(
                names[row, :most],
                chunks[row, :most].tolist(),
                scores[row, :most].tolist(),
                ids[row, :most].tolist(),
                documents[row, :most],
                strict=True,
            )
        ]
        for row, most in enumerate(counts)
    ]
    return Found(hits, count)


def _read_document(raw: bytes) -> Document:
    row = json.loads(raw)
    span = row.pop(SPAN, None)
    return Document(row, None if span is None else (int(span[0]), int(span[1])))


def state_outputs(state: State) -> dict[str, NDArray[Any]]:
    """Return the outputs of a request for the state."""
    values = {**state.loaded._asdict(), **state.newest._asdict()}
    return {"STATE": _texts(json.dumps(values, ensure_ascii=False), 1)}


def read_state(outputs: Arrays) -> State:
    """Return the state from the outputs of a request for it.

    Raises
    ------
    CareError
        It is missing, or of another release.
    """
    raw = _output(outputs, "STATE").ravel()[0]
    try:
        values = json.loads(raw)
        loaded = Loaded(*(values[name] for name in Loaded._fields))
        newest = Newest(*(values[name] for name in Newest._fields))
    except (ValueError, KeyError, TypeError) as cause:
        raise CareError(f"a shard answers with a state that cannot be read ({cause})") from None
    return State(loaded, newest)


def _output(outputs: Arrays, name: str) -> NDArray[Any]:
    if name not in outputs:
        raise CareError(f"a shard answers without {name}; start it again with this release")
    return outputs[name]


def _texts(text: str, rows: int) -> NDArray[np.object_]:
    return np.full((rows, 1), text.encode(), np.object_)
