"""The protocol of the inference server (v2, gRPC) before a sharded collection: its clients and the gateway need no other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from care_accel.cluster.shards.answers import Answer
from care_accel.cluster.shards.calls import ShardAway, ShardFailed
from care_accel.encoding.base import BaseDualEncoder
from care_accel.encoding.runtimes.server_descriptions import DESCRIPTION, ENCODERS, SEARCH
from care_accel.encoding.runtimes.server_messages import PARTIAL, SHARE
from care_accel.encoding.runtimes.transports import tritonclient_module
from care_accel.encoding.runtimes.transports.grpc import CHANNEL
from care_accel.encoding.spec import ROLES, Role, Task
from care_accel.errors import CareError
from care_accel.retriever import Hit
from care_accel.serving.backend.hits import read_expressions
from care_accel.serving.backend.open_collection import json_of
from care_accel.serving.backend.tensors import read_tasks, read_texts
from care_accel.serving.repository.config import Tensor, model_config
from care_accel.serving.repository.python_backend import MAX_K, K, care_parameter
from care_accel.version import __version__

if TYPE_CHECKING:
    from care_accel.cluster.shards.metrics import Metrics
    from care_accel.cluster.shards.serving import ShardedCollection

_BATCH = 64
_THREADS = 32
_NUMPY = {"INT32": np.int32, "FP32": np.float32, "INT64": np.int64}
# An answer's parameter with the version that was searched.
VERSION = "version"

_TEXTS = (Tensor("TEXT", "BYTES"), Tensor("TASK", "BYTES", optional=True))
_COSTS = (Tensor("TOKENS", "INT32"),)


class Front:
    """A gRPC server for a sharded collection, with the models ``query_encoder``, ``document_encoder`` and ``search``.

    A search is refused with UNAVAILABLE while a shard is away, unless partial answers are allowed. The output SHARE says for
    each query what share of the documents was searched.

    Parameters
    ----------
    searched : ShardedCollection
    address : str
        ``host:port``; port 0 for a free one.
    require_all : bool
        Whether partial answers are for requests alone that have the parameter ``partial``.
    metrics : Metrics, optional
        Where requests are counted.

    Attributes
    ----------
    address : str
        Where it listens.

    Raises
    ------
    CareError
        tritonclient is not installed, or the address is taken.
    """

    def __init__(
        self,
        searched: ShardedCollection,
        address: str,
        *,
        require_all: bool = True,
        metrics: Metrics | None = None,
    ) -> None:
        tritonclient_module("tritonclient.grpc")
        import grpc
        from tritonclient.grpc import service_pb2_grpc

        host, _, _ = address.rpartition(":")
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, "front"), options=[*CHANNEL, ("grpc.so_reuseport", 0)]
        )
        servicer = _servicer(searched, require_all=require_all, metrics=metrics)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, self._server)
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError:
            raise CareError(
                f"{address} cannot be listened on; is its port taken? Choose another one"
            ) from None
        self.address = f"{host}:{port}"
        self._server.start()

    def stop(self) -> None:
        """Answer what has begun, and stop."""
        self._server.stop(grace=10).wait()


def _servicer(searched: ShardedCollection, *, require_all: bool, metrics: Metrics | None) -> Any:
    """Return the methods of the service that clients of this package call; the class exists with tritonclient only."""
    import grpc
    from tritonclient.grpc import service_pb2 as messages
    from tritonclient.grpc import service_pb2_grpc

    models = _Models(searched)

    class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
        """The service."""

        def ServerLive(self, request: Any, context: Any) -> Any:
            return messages.ServerLiveResponse(live=True)

        def ServerReady(self, request: Any, context: Any) -> Any:
            return messages.ServerReadyResponse(ready=not searched.away)

        def ServerMetadata(self, request: Any, context: Any) -> Any:
            return messages.ServerMetadataResponse(name="care-accel", version=__version__)

        def ModelReady(self, request: Any, context: Any) -> Any:
            return messages.ModelReadyResponse(ready=request.name in models.configs and not searched.away)

        def ModelConfig(self, request: Any, context: Any) -> Any:
            return messages.ModelConfigResponse(config=self._config(request.name, context))

        def ModelInfer(self, request: Any, context: Any) -> Any:
            self._config(request.model_name, context)
            try:
                outputs, version = self._answer(request)
            except ShardAway as away:
                context.abort(grpc.StatusCode.UNAVAILABLE, str(away))
            except ShardFailed as failure:
                context.abort(grpc.StatusCode.INTERNAL, str(failure))
            except CareError as mistake:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(mistake))
            response = messages.ModelInferResponse(
                model_name=request.model_name, model_version="1", id=request.id
            )
            for name, values in outputs.items():
                kind, raw = _raw(values)
                response.outputs.add(name=name, datatype=kind, shape=values.shape)
                response.raw_output_contents.append(raw)
            if version is not None:
                response.parameters[VERSION].int64_param = version
            return response

        def _answer(self, request: Any) -> tuple[dict[str, NDArray[Any]], int | None]:
            partial = not require_all or request.parameters[PARTIAL].bool_param
            if metrics is None:
                return models.infer(request.model_name, _inputs(request), partial=partial)
            with metrics.timed(request.model_name) as counted:
                inputs = _inputs(request)
                counted.texts = len(inputs.get("TEXT", ()))
                outputs, version = models.infer(request.model_name, inputs, partial=partial)
                counted.share = float(outputs[SHARE].min()) if SHARE in outputs else 1.0
            return outputs, version

        def _config(self, name: str, context: Any) -> Any:
            if name not in models.configs:
                context.abort(grpc.StatusCode.NOT_FOUND, f"unknown model: {name[:100]!r} is not found")
            return models.configs[name]

    return Servicer()


class _Models:
    """What the models of the front answer."""

    def __init__(self, searched: ShardedCollection) -> None:
        self._searched = searched
        model = searched.model
        self.configs = {ENCODERS[role]: _encoder_config(model, role) for role in ROLES}
        self.configs[SEARCH] = _search_config(searched)

    def infer(
        self, name: str, inputs: Mapping[str, NDArray[Any]], *, partial: bool
    ) -> tuple[dict[str, NDArray[Any]], int | None]:
        """Return the outputs of a model, and of a search the version.

        Raises
        ------
        CareError
            An input is wrong, or a shard is away.
        """
        if "TEXT" not in inputs:
            raise CareError("TEXT is missing; it is expected in every request")
        if len(inputs["TEXT"]) > _BATCH:
            raise CareError(f"the request has {len(inputs['TEXT'])} texts; at most {_BATCH} are allowed")
        texts = read_texts(inputs["TEXT"], empty=name == ENCODERS["document"])
        tasks = read_tasks(inputs.get("TASK"), len(texts))
        if name == SEARCH:
            return self._search(texts, tasks, inputs, partial=partial)
        role: Role = "query" if name == ENCODERS["query"] else "document"
        vectors, tokens, times = self._encode(role, texts, tasks)
        return {"EMBEDDING": vectors, "TOKENS": tokens, "TIMES": times}, None

    def _encode(
        self, role: Role, texts: list[str], tasks: list[Task]
    ) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
        encoder: Any = self._searched.model.encoder(role)
        vectors = np.empty((len(texts), self._searched.manifest.width), np.float32)
        tokens, times = np.empty((len(texts), 1), np.int32), np.empty((len(texts), 2), np.float32)
        for task in dict.fromkeys(tasks):
            rows = [row for row, own in enumerate(tasks) if own == task]
            some = [texts[row] for row in rows]
            begun = perf_counter()
            ids = encoder.tokenize(some, task)
            tokenised = perf_counter()
            vectors[rows] = encoder.encode_tokens(ids)
            tokens[rows, 0] = [len(own) for own in ids]
            times[rows] = 1e6 * (tokenised - begun), 1e6 * (perf_counter() - tokenised)
        return vectors, tokens, times

    def _search(
        self, texts: list[str], tasks: list[Task], inputs: Mapping[str, NDArray[Any]], *, partial: bool
    ) -> tuple[dict[str, NDArray[Any]], int]:
        given = inputs.get("K")
        ks = np.full(len(texts), K, np.int32) if given is None else given.ravel()
        if ks.size != len(texts) or ks.min() < 1 or ks.max() > MAX_K:
            raise CareError(
                f"K {int(np.argmax((ks < 1) | (ks > MAX_K)))} is not 1 to {MAX_K:,} for each text"
            )
        k = int(ks.max())
        filters = read_expressions(inputs.get("FILTER"), len(texts)) or [None] * len(texts)
        vectors, tokens, encoding = self._encode("query", texts, tasks)
        begun = perf_counter()
        groups: dict[tuple[int, str | None], list[int]] = {}
        for row, asked in enumerate(zip(ks.tolist(), filters, strict=True)):
            groups.setdefault(asked, []).append(row)
        ids, scores = np.full((len(texts), k), -1, np.int64), np.full((len(texts), k), -np.inf, np.float32)
        documents = np.full((len(texts), k), b"null", np.object_)
        names = np.full((len(texts), k), b"", np.object_)
        shares = np.ones((len(texts), 1), np.float32)
        answers: list[Answer] = []
        for (own_k, condition), rows in groups.items():
            answer = self._searched.search_vectors(
                vectors[rows], own_k, [texts[row] for row in rows], filter=condition, require_all=not partial
            )
            answers.append(answer)
            shares[rows] = answer.share
            for row, hits, places in zip(rows, answer.hits, answer.positions, strict=True):
                for place, (hit, number) in enumerate(zip(hits, places, strict=True)):
                    ids[row, place], scores[row, place] = number, hit.score
                    documents[row, place], names[row, place] = _document(hit), hit.id.encode()
        if len({answer.version for answer in answers}) > 1:
            raise ShardAway("a new version of the collection went live during the request; send it again")
        times = np.hstack([encoding, np.full((len(texts), 1), 1e6 * (perf_counter() - begun), np.float32)])
        outputs: dict[str, NDArray[Any]] = {
            "IDS": ids,
            "SCORES": scores,
            "DOCUMENTS": documents,
            "DOCUMENT_IDS": names,
        }
        outputs |= {"TOKENS": tokens, "TIMES": times, SHARE: shares}
        return outputs, answers[0].version


def _document(hit: Hit) -> bytes:
    return json_of(dict(hit.document), hit.span)


def _encoder_config(model: BaseDualEncoder, role: Role) -> Any:
    return model_config(
        ENCODERS[role],
        backend="care_accel",
        inputs=_TEXTS,
        outputs=[Tensor("EMBEDDING", "FP32", (model.width,)), *_COSTS, Tensor("TIMES", "FP32", (2,))],
        max_batch_size=_BATCH,
        parameters={DESCRIPTION: care_parameter(model, role)},  # type: ignore[arg-type]
    )


def _search_config(searched: ShardedCollection) -> Any:
    manifest = searched.manifest
    known = {
        "name": searched.model.name,
        "width": manifest.width,
        "revision": manifest.revision,
        "k": K,
        "most_k": MAX_K,
        "collection": True,
    }
    hits = [Tensor(name, kind, (-1,)) for name, kind in (("IDS", "INT64"), ("SCORES", "FP32"))]
    texts = [Tensor(name, "BYTES", (-1,)) for name in ("DOCUMENTS", "DOCUMENT_IDS")]
    return model_config(
        SEARCH,
        backend="care_accel",
        inputs=[
            *_TEXTS,
            Tensor("K", "INT32", optional=True),
            Tensor("FILTER", "BYTES", optional=True),
        ],
        outputs=[*hits, *texts, *_COSTS, Tensor("TIMES", "FP32", (3,)), Tensor(SHARE, "FP32")],
        max_batch_size=_BATCH,
        parameters={DESCRIPTION: json.dumps(known, ensure_ascii=False)},
    )


def _inputs(request: Any) -> dict[str, NDArray[Any]]:
    """Return the tensors of a request.

    Raises
    ------
    CareError
        One cannot be read.
    """
    from tritonclient.utils import deserialize_bytes_tensor

    if len(request.raw_input_contents) != len(request.inputs):
        raise CareError("send inputs as raw bytes (raw_input_contents), one for each")
    found = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        try:
            if tensor.datatype == "BYTES":
                values = deserialize_bytes_tensor(raw)
            else:
                values = np.frombuffer(raw, _NUMPY[tensor.datatype])
            found[tensor.name] = values.reshape(tuple(tensor.shape))
        except Exception:
            raise CareError(
                f"{tensor.name[:100]}: {tensor.datatype[:20]} {list(tensor.shape)[:4]} cannot be read"
            ) from None
    return found


def _raw(values: NDArray[Any]) -> tuple[str, bytes]:
    from tritonclient.utils import serialize_byte_tensor

    if values.dtype == np.object_:
        found = serialize_byte_tensor(values)
        return "BYTES", found.item() if found.size else b""
    kind = next(name for name, dtype in _NUMPY.items() if values.dtype == dtype)
    return kind, np.ascontiguousarray(values).tobytes()
