"""What is said to an inference server and what it answers: pure functions that both clients share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.base import checked_texts
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.encoding.spec import EncoderSpec, Role
from care_accel.errors import CareError, require_count
from care_accel.files import replace_lone_surrogates

# Names of the served models; `care_accel.serving` writes their repository.
ENCODERS: dict[Role, str] = {"query": "query_encoder", "document": "document_encoder"}
SEARCH, SCAN = "search", "scan"
DESCRIPTION = "care"  # the parameter of a model's configuration that describes it, as JSON

_PLACE = re.compile(r"\b(TEXT|TASK|K) (\d+) ")


@dataclass(frozen=True)
class ServedEncoder:
    """What a server says of one of its encoders.

    Attributes
    ----------
    name : str
        Of the dual encoder that it belongs to.
    role : {"query", "document"}
    width : int
    revision : str
        `DualEncoder.revision` of the role.
    fingerprint : str
        Of the checkpoint.
    spec : EncoderSpec
    symmetric : bool
    max_batch_size : int
        Texts in a request at most.
    """

    name: str
    role: Role
    width: int
    revision: str
    fingerprint: str
    spec: EncoderSpec
    symmetric: bool
    max_batch_size: int


@dataclass(frozen=True)
class ServedSearch:
    """What a server says of its search.

    Attributes
    ----------
    width : int
    revision : str
        Of the document encoder that made the vectors.
    most_k : int
        Hits of a query at most.
    max_batch_size : int
        Queries in a request at most.
    """

    width: int
    revision: str
    most_k: int
    max_batch_size: int


_Answer = TypeVar("_Answer", "Encoded", "Found")


class Encoded(NamedTuple):
    """Vectors from a server, a row a text.

    Attributes
    ----------
    vectors : numpy.ndarray
        float32 ``[n, width]``.
    tokens : numpy.ndarray
        int32 ``[n]``: tokens of each text.
    times : numpy.ndarray
        float32 ``[n, 2]``: microseconds that the server took to tokenise and to encode the batch of each text; of a
        text that it remembered, those of the look-up.
    """

    vectors: NDArray[np.float32]
    tokens: NDArray[np.int32]
    times: NDArray[np.float32]


class Found(NamedTuple):
    """Hits from a server, a row a query; where there are fewer than k, id -1, score -inf and None follow.

    Attributes
    ----------
    ids : numpy.ndarray
        int64 ``[n, k]``.
    scores : numpy.ndarray
        float32 ``[n, k]``.
    documents : list of list
        What the index holds for each hit, None if it holds nothing.
    tokens : numpy.ndarray
        int32 ``[n]``: tokens of each text.
    times : numpy.ndarray
        float32 ``[n, 3]``: microseconds that the server took to tokenise, encode and scan the batch of each query.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    documents: list[list[Any]]
    tokens: NDArray[np.int32]
    times: NDArray[np.float32]


@dataclass(frozen=True)
class Plan(Generic[_Answer]):
    """Some texts as requests to one model.

    Attributes
    ----------
    model : str
    portions : list of list of int
        Positions of the texts of each request.
    """

    model: str
    portions: list[list[int]]
    _texts: Sequence[str]
    _task: str
    _k: int | None
    _nothing: _Answer
    _read: Callable[[Any, int], _Answer]

    def inputs(self, portion: Sequence[int]) -> list[Any]:
        """Return the inputs of a request, as tritonclient has them."""
        return _text_inputs([self._texts[i] for i in portion], self._task, self._k)

    def read(self, result: Any, portion: Sequence[int]) -> _Answer:
        """Read the answer to a request.

        Raises
        ------
        CareError
            An output is missing, or has another shape or type.
        """
        return self._read(result, len(portion))

    def placed(self, error: ServerError, portion: Sequence[int]) -> ServerError:
        """Return an error with the place among all texts, where the server names one in the request."""

        def place(match: re.Match[str]) -> str:
            row = int(match[2])
            return f"{match[1]} {portion[row] if row < len(portion) else row} "

        if error.status != "INVALID_ARGUMENT":
            return error
        return ServerError(error.status, _PLACE.sub(place, str(error)))

    def merged(self, answers: Sequence[_Answer]) -> _Answer:
        """Put the answers to all requests into one, in the order of the texts."""
        if not answers:
            return self._nothing
        order = np.argsort([i for portion in self.portions for i in portion])
        return type(answers[0])(*(_in_order(some, order) for some in zip(*answers, strict=True)))


def encode_plan(
    served: ServedEncoder, texts: Sequence[str], task: str, batch_size: int | None
) -> Plan[Encoded]:
    """Share texts out to requests to an encoder, ``batch_size`` in each at most if it is given.

    Raises
    ------
    CareError
        Something that is no str (its position is named), or a size below 1.
    """
    if batch_size is not None:
        require_count("batch_size", batch_size)
    texts = _checked(texts)
    portions = _portions(texts, min(batch_size or served.max_batch_size, served.max_batch_size))
    nothing = Encoded(
        np.empty((0, served.width), np.float32), np.empty(0, np.int32), np.empty((0, 2), np.float32)
    )
    read = partial(_read_encoded, width=served.width)
    return Plan(ENCODERS[served.role], portions, texts, task, None, nothing, read)


def search_plan(served: ServedSearch, texts: Sequence[str], k: int, task: str) -> Plan[Found]:
    """Share queries out to requests to the search.

    Raises
    ------
    CareError
        Something that is no str (its position is named), or ``k`` is no number above 0.
    """
    require_count("k", k)
    k = min(int(k), np.iinfo(np.int32).max)  # too many in any case, which the server says
    texts = _checked(texts)
    portions = _portions(texts, served.max_batch_size)
    vacant = np.empty((0, k), np.int64), np.empty((0, k), np.float32)
    nothing = Found(*vacant, [], np.empty(0, np.int32), np.empty((0, 3), np.float32))
    read = partial(_read_found, k=k)
    return Plan(SEARCH, portions, texts, task, k, nothing, read)


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise CareError("texts are a str; give a list of str")
    return checked_texts(texts)


def _portions(texts: Sequence[str], size: int) -> list[list[int]]:
    """Share positions of texts out to requests of at most ``size``, alike lengths together.

    A server pads the texts of a batch to the longest.
    """
    order = list(range(len(texts)))
    if len(order) > size:
        order.sort(key=lambda i: -len(texts[i]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _text_inputs(texts: Sequence[str], task: str, k: int | None) -> list[Any]:
    from tritonclient.grpc import InferInput

    rows = len(texts)
    columns = {"TEXT": ("BYTES", _bytes_column([replace_lone_surrogates(text)[0] for text in texts]))}
    # Left out where they are the default: the server batches only requests that have the same inputs.
    if task != "retrieval":
        columns["TASK"] = "BYTES", _bytes_column([task] * rows)
    if k is not None:
        columns["K"] = "INT32", np.full((rows, 1), k, dtype=np.int32)
    inputs = []
    for name, (kind, column) in columns.items():
        inputs.append(InferInput(name, [rows, 1], kind))
        inputs[-1].set_data_from_numpy(column)
    return inputs


def _bytes_column(texts: Sequence[str]) -> NDArray[np.object_]:
    column = np.empty((len(texts), 1), dtype=np.object_)
    column[:, 0] = [text.encode() for text in texts]
    return column


def _read_encoded(result: Any, count: int, width: int) -> Encoded:
    vectors = _output(result, "EMBEDDING", np.float32, (count, width))
    return Encoded(vectors, *_read_costs(result, count, 2))


def _read_found(result: Any, count: int, k: int) -> Found:
    documents = _output(result, "DOCUMENTS", np.object_, (count, k))
    try:
        values = [[json.loads(value) for value in row] for row in documents]
    except ValueError as cause:
        raise _strange(f"a document that is no JSON value ({cause})") from None
    ids, scores = (
        _output(result, name, kind, (count, k)) for name, kind in (("IDS", np.int64), ("SCORES", np.float32))
    )
    return Found(ids, scores, values, *_read_costs(result, count, 3))


def _read_costs(result: Any, count: int, steps: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    tokens = _output(result, "TOKENS", np.int32, (count, 1))[:, 0]
    return tokens, _output(result, "TIMES", np.float32, (count, steps))


def _output(result: Any, name: str, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        values = result.as_numpy(name)
    except ValueError as cause:
        raise _strange(f"an output {name} that cannot be read ({cause})") from None
    if values is None:
        raise _strange(f"no output {name}")
    if values.shape != shape or values.dtype != dtype:
        raise _strange(
            f"an output {name} of {values.dtype} {list(values.shape)}, not {np.dtype(dtype)} {list(shape)}"
        )
    return values


def _strange(what: str) -> CareError:
    return CareError(
        f"the inference server answered with {what}; write its model repository anew with this release"
    )


def _in_order(some: Sequence[Any], order: NDArray[np.intp]) -> Any:
    if isinstance(some[0], list):
        rows = [row for one in some for row in one]
        return [rows[i] for i in order]
    return np.concatenate(some)[order]


def read_encoder(config: Any, role: Role, address: str) -> ServedEncoder:
    """Read what a model's configuration says of the encoder that it serves.

    Raises
    ------
    CareError
        It says nothing of it: the model was not written by this package.
    """
    values = _description(config, address)
    try:
        found = ServedEncoder(
            name=str(values["name"]),
            role=values["role"],
            width=int(values["width"]),
            revision=str(values["revision"]),
            fingerprint=str(values["fingerprint"]),
            spec=EncoderSpec.from_dict(values["spec"], f"{address}: {config.name}"),
            symmetric=bool(values["symmetric"]),
            max_batch_size=max(1, config.max_batch_size),
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise _no_description(config, address, cause) from None
    if found.role != role:
        raise CareError(
            f"{address}: {config.name} serves the {found.role} encoder; its repository is mixed up"
        )
    return found


def read_search(search: Any, scan: Any, address: str) -> ServedSearch:
    """Read what the configurations of ``search`` and ``scan`` say of the index that they serve.

    Raises
    ------
    CareError
        They say nothing of it: the models were not written by this package.
    """
    values = _description(scan, address)
    try:
        return ServedSearch(
            width=int(values["width"]),
            revision=str(values["revision"]),
            most_k=int(values["most_k"]),
            max_batch_size=max(1, search.max_batch_size),
        )
    except (KeyError, TypeError, ValueError) as cause:
        raise _no_description(scan, address, cause) from None


def _description(config: Any, address: str) -> Mapping[str, Any]:
    try:
        values = json.loads(config.parameters[DESCRIPTION].string_value)
    except ValueError as cause:
        raise _no_description(config, address, cause) from None
    if not isinstance(values, dict):
        raise _no_description(config, address, TypeError("no JSON object"))
    return values


def _no_description(config: Any, address: str, cause: Exception) -> CareError:
    why = f"{cause} is missing" if isinstance(cause, KeyError) else cause
    return CareError(
        f"{address}: the configuration of {config.name} has no parameter {DESCRIPTION!r} that this release reads "
        f"({why}); write the model repository anew with care-accel export --repository"
    )
