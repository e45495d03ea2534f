"""Writes model repositories for the Python backend of NVIDIA Triton Inference Server.

``query_encoder`` and ``document_encoder`` map TEXT to EMBEDDING, ``scan`` maps EMBEDDING to hits, and ``search`` maps TEXT
to hits: in one process on the CPU, which can be the server's own, as an ensemble of ``query_encoder`` and ``scan`` on GPUs. The
project's ``model_repository/`` is the output of `write_repository` with its defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from care_accel.collection.storage.layout import located, names_collection
from care_accel.encoding import DualEncoder, Role
from care_accel.encoding.loading.sources import DEFAULT
from care_accel.encoding.spec import ROLES
from care_accel.errors import CareError
from care_accel.folders import replaced_folder
from care_accel.index import load_index
from care_accel.retriever import MANIFEST, ModelIdentity, Retriever
from care_accel.serving.backend import IN_PROCESS
from care_accel.serving.repository.config import (
    Step,
    Tensor,
    add_instances,
    model_config,
    model_file,
    set_batching,
    write_model,
)

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

MODELS = ("query_encoder", "document_encoder", "scan", "search")

K, MAX_K = 10, 1000
# Measured in bench/serving/test_server.py; see docs/serving.md. Requests queue up for the next batch while one runs; an
# additional delay only slows the first request.
_DELAY_US = 0
_QUERY_BATCH, _DOCUMENT_BATCH, _SCAN_BATCH = 64, 64, 64
_QUERY_TOKENS, _DOCUMENT_TOKENS = 2048, 4096
# Capacity of the query vector cache: some 10 MB for CARE.
_CACHED_TEXTS = 4096
# A batch of queries takes milliseconds, so a queue of eight batches is not noticeable; beyond it requests are rejected.
# The models enforce this themselves, see `care_accel.serving.backend.backlog`.
_QUERY_QUEUE, _DOCUMENT_QUEUE = 8 * _QUERY_BATCH, 4 * _DOCUMENT_BATCH
_QUERY_WAIT, _DOCUMENT_WAIT = 2, 60  # seconds
# Of an approximate index every so many queries are answered exactly as well.
_RECALL_EVERY = 1000

_K_INPUT = Tensor("K", "INT32", optional=True)
_SEARCH_INPUTS = (Tensor("TEXT", "BYTES"), _K_INPUT, Tensor("TASK", "BYTES", optional=True))
_HITS = (Tensor("IDS", "INT64", (-1,)), Tensor("SCORES", "FP32", (-1,)), Tensor("DOCUMENTS", "BYTES", (-1,)))
_SEARCH_OUTPUTS = (*_HITS, Tensor("TOKENS", "INT32"), Tensor("TIMES", "FP32", (3,)))
# Of an index, and of a collection.
_SUBSET = Tensor("SUBSET", "INT64", (-1,), optional=True)
_FILTER = Tensor("FILTER", "BYTES", optional=True)
_DOCUMENT_IDS = Tensor("DOCUMENT_IDS", "BYTES", (-1,))


def write_repository(
    folder: str | Path,
    model: str | Path = DEFAULT,
    *,
    index: str | Path | None = None,
    gpu: bool = False,
    several_tenants: bool = False,
    in_process: bool | None = False,
    **options: Any,
) -> None:
    """Write a repository that serves a dual encoder and an index.

    Parameters
    ----------
    folder : str or Path
        Replaced if it contains such a repository and nothing else.
    model : str or Path
        As for `DualEncoder.from_pretrained`. Encoders are not copied: the server loads them from their present path.
    index : str or Path, optional
        A saved `Retriever`, `ExactIndex` or `ApproximateIndex`, or a collection, of the same model. The server takes the options of
        a collection in an object store from its environment. Without one ``scan`` encodes and serves the embedded demo's
        documents.
    gpu : bool
        An instance on every GPU instead of one on the CPU. ``search`` is then an ensemble, whose vectors stay on the GPU,
        so that a GPU holds one query encoder and one index.
    several_tenants : bool
        Disable the query vector cache, whose response times reveal what other tenants asked.
    in_process : bool or None
        Have ``search`` run in the server's own process, by the backend ``care`` of this package, which `Server` and the script
        ``tritonserver`` bring along: a request then passes no other process. None: if the query encoder runs on the native engine
        here, which loads no libraries that the server may have in another version.
    **options
        Options of `DualEncoder.from_pretrained`: ``query``, ``document``, ``base``, ``preset``, ``width``, ``max_tokens``,
        ``dtype``, ``runtime``, ``revision``.

    Raises
    ------
    CareError
        The model or the index is missing, they do not match, ``folder`` contains something else, or ``search`` cannot run in the
        server's process.
    """
    if in_process and gpu:
        raise CareError("search runs in the server's process on the CPU only; choose gpu or in_process")
    found, loading = load_served(model, options)
    if index is not None:
        index = located(index)
        require_index(index, found)
    folder = Path(folder)
    with replaced_folder(
        folder, "search", [name for name in MODELS if name != "search"], private=False
    ) as built:
        write_encoders(built, found, loading, gpu=gpu, several_tenants=several_tenants)
        _write(built, scan_config(found, loading, index, gpu=gpu), "scan_model", "ScanModel")
        if gpu:
            write_model(built, search_ensemble(collection=index is not None and names_collection(index)))
        else:
            cached = 0 if several_tenants else _CACHED_TEXTS
            if in_process is None:
                in_process = found.choice("query").runtime == "native"
            config = _search_config(found, loading, index, cached_texts=cached)
            config.backend = IN_PROCESS if in_process else config.backend
            _write(built, config, "search_model", "SearchModel")


def load_served(model: str | Path, options: Mapping[str, Any]) -> tuple[DualEncoder, dict[str, Any]]:
    """Return a model, and the arguments by which the server's processes load it, folders as absolute paths.

    Parameters
    ----------
    model, options
        As for `write_repository`.
    """
    loading = {name: value for name, value in {"model": str(model), **options}.items() if value is not None}
    if options.get("query") is not None:
        del loading["model"]
    found = DualEncoder.from_pretrained(**loading)
    return found, {name: _absolute(value) for name, value in loading.items()}


def write_encoders(
    repository: Path, model: DualEncoder, loading: Mapping[str, Any], *, gpu: bool, several_tenants: bool
) -> None:
    """Write ``query_encoder`` and ``document_encoder`` of a repository; parameters are those of `write_repository`."""
    for role in ROLES:
        # The cache is in host memory: none for vectors on a GPU.
        cached = 0 if role == "document" or several_tenants or gpu else _CACHED_TEXTS
        config = _encoder(model, role, loading, gpu=gpu, cached_texts=cached)
        _write(repository, config, "encoder_model", f"{role.capitalize()}EncoderModel")


def require_index(index: str | Path, model: ModelIdentity) -> None:
    """Check that an index matches the model, before anything is written or started.

    Raises
    ------
    CareError
        It was made by another document encoder; the message has both hashes.
    """
    folder = Path(index)
    if names_collection(index):
        from care_accel.collection import Collection

        Collection.open(index, model=cast(DualEncoder, model))
        return
    vectors = folder / "vectors" if (folder / MANIFEST).is_file() else folder
    Retriever(model, load_index(vectors, verify=False))


def care_parameter(model: DualEncoder, role: Role) -> str:
    """Return the parameter ``care`` of a served encoder: its identity for clients, as JSON."""
    return json.dumps(
        {
            "name": model.name,
            "role": role,
            "width": model.width,
            "revision": model.revision(role),
            "fingerprint": model.source(role).recorded or model.source(role).checkpoint.fingerprint,
            "spec": model.spec(role).to_dict(),
            "symmetric": model.symmetric,
        },
        ensure_ascii=False,
    )


def search_ensemble(*, collection: bool = False) -> ModelConfig:
    """Return the configuration of ``search`` as an ensemble: TEXT to hits through ``query_encoder`` and ``scan``."""
    limit = _limit(collection=collection).name
    named = {"DOCUMENT_IDS": "DOCUMENT_IDS"} if collection else {}
    return model_config(
        "search",
        inputs=[*_SEARCH_INPUTS, _limit(collection=collection)],
        outputs=[*_SEARCH_OUTPUTS, *_names(collection=collection)],
        max_batch_size=_QUERY_BATCH,
        steps=[
            Step(
                "query_encoder",
                {"TEXT": "TEXT", "TASK": "TASK"},
                {"EMBEDDING": "embedding", "TOKENS": "TOKENS", "TIMES": "encode_times"},
            ),
            Step(
                "scan",
                {"EMBEDDING": "embedding", "K": "K", "TEXT": "TEXT", "ENCODE_TIMES": "encode_times"}
                | {limit: limit},
                {"IDS": "IDS", "SCORES": "SCORES", "DOCUMENTS": "DOCUMENTS", "TIMES": "TIMES"} | named,
            ),
        ],
    )


def _search_config(
    model: DualEncoder, loading: Mapping[str, Any], index: str | Path | None, *, cached_texts: int
) -> ModelConfig:
    """Return the configuration of ``search`` as one model."""
    parameters = index_parameters(model, loading, index) | _of_texts(
        "query", cached_texts=cached_texts, on_device=False
    )
    known = json.loads(parameters["care"]) | {"query_revision": model.revision("query")}
    collection = index is not None and names_collection(index)
    config = model_config(
        "search",
        backend="python",
        inputs=[*_SEARCH_INPUTS, _limit(collection=collection)],
        outputs=[*_SEARCH_OUTPUTS, *_names(collection=collection)],
        max_batch_size=_QUERY_BATCH,
        parameters=parameters | {"care": json.dumps(known, ensure_ascii=False)},
    )
    add_instances(config)
    set_batching(config, delay_us=_DELAY_US)
    return config


def _of_texts(role: Role, *, cached_texts: int, on_device: bool) -> dict[str, str]:
    """Return the parameters of a model that encodes texts."""
    of_queries = role == "query"
    return {
        "token_budget": str(_QUERY_TOKENS if of_queries else _DOCUMENT_TOKENS),
        "on_device": json.dumps(on_device),
        "cached_texts": str(cached_texts),
        "warm_up_batch": str(8 if of_queries else 1),
        "queue": str(_QUERY_QUEUE if of_queries else _DOCUMENT_QUEUE),
        "wait": str(_QUERY_WAIT if of_queries else _DOCUMENT_WAIT),
    }


def index_parameters(
    model: DualEncoder, loading: Mapping[str, Any], index: str | Path | None
) -> dict[str, str]:
    """Return the parameters of a model that searches an index."""
    known = {
        "name": model.name,
        "width": model.width,
        "revision": model.revision("document"),
        "k": K,
        "most_k": MAX_K,
    }
    searched = {"documents": "care-demo"} if index is None else {"index": _absolute(str(index))}
    if index is not None and names_collection(index):
        known["collection"] = True
    return {
        "care": json.dumps(known, ensure_ascii=False),
        "load": json.dumps(loading),
        "queue": str(_QUERY_QUEUE),
        "wait": str(_QUERY_WAIT),
        "recall_every": str(_RECALL_EVERY),
        **{name: json.dumps(value) for name, value in searched.items()},
    }


def _encoder(
    model: DualEncoder, role: Role, loading: Mapping[str, Any], *, gpu: bool, cached_texts: int
) -> ModelConfig:
    of_queries = role == "query"
    config = model_config(
        f"{role}_encoder",
        backend="python",
        inputs=[
            Tensor("TEXT", "BYTES"),
            Tensor("TASK", "BYTES", optional=True),
        ],
        outputs=[
            Tensor("EMBEDDING", "FP32", (model.width,)),
            Tensor("TOKENS", "INT32"),
            Tensor("TIMES", "FP32", (2,)),
        ],
        max_batch_size=_QUERY_BATCH if of_queries else _DOCUMENT_BATCH,
        parameters={
            "care": care_parameter(model, role),
            "load": json.dumps(loading),
            "background": json.dumps(not of_queries),
            **_of_texts(role, cached_texts=cached_texts, on_device=gpu),
        },
    )
    add_instances(config, kind="GPU" if gpu else "CPU")
    set_batching(config, delay_us=_DELAY_US)
    return config


def scan_config(
    model: DualEncoder, loading: Mapping[str, Any], index: str | Path | None, *, gpu: bool
) -> ModelConfig:
    """Return the configuration of ``scan``."""
    collection = index is not None and names_collection(index)
    inputs = (
        Tensor("EMBEDDING", "FP32", (model.width,)),
        _K_INPUT,
        Tensor("TEXT", "BYTES", optional=True),
        Tensor("ENCODE_TIMES", "FP32", (2,), optional=True),
    )
    config = model_config(
        "scan",
        backend="python",
        inputs=[*inputs, _limit(collection=collection)],
        outputs=[*_HITS, Tensor("TIMES", "FP32", (3,)), *_names(collection=collection)],
        max_batch_size=_SCAN_BATCH,
        parameters=index_parameters(model, loading, index),
    )
    add_instances(config, kind="GPU" if gpu else "CPU")
    set_batching(config)
    if gpu:
        # Embeddings on the GPU are passed without a copy to the host.
        config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value = "no"
    return config


def _limit(*, collection: bool) -> Tensor:
    """Return the input that limits the documents of a query."""
    return _FILTER if collection else _SUBSET


def _names(*, collection: bool) -> list[Tensor]:
    """Return the outputs that only a collection has."""
    return [_DOCUMENT_IDS] if collection else []


def _write(repository: Path, config: ModelConfig, module: str, name: str) -> None:
    write_model(repository, config, {"1/model.py": model_file(module, name)})


def _absolute(value: Any) -> Any:
    """Return a folder's absolute path; model names and other values unchanged."""
    return str(Path(value).resolve()) if isinstance(value, str | Path) and Path(value).is_dir() else value
