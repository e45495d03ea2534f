"""Writes model repositories whose networks run in the ONNX Runtime or TensorRT backend of NVIDIA's containers.

Each encoder is an ensemble of ``query_tokenizer`` (Python backend: TEXT to token ids) and ``query_network`` (a graph or an
engine with network, pooling, slicing and normalising). For the Python backend see
`care_accel.serving.repository.python_backend`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.collection.storage.layout import located, names_collection
from care_accel.encoding import ROLES, DualEncoder, Encoder, Role
from care_accel.encoding.loading.sources import DEFAULT, Source
from care_accel.encoding.runtimes.artefact import Artefact
from care_accel.encoding.runtimes.onnxruntime_cpu import GRAPH, INPUTS, OUTPUT
from care_accel.encoding.runtimes.tensorrt_engine import BUCKETS, ENGINE, Bucket
from care_accel.errors import CareError
from care_accel.export.graph import write_graph
from care_accel.folders import replaced_folder
from care_accel.serving.repository.config import (
    VERSION,
    Step,
    Tensor,
    add_instances,
    add_warmup,
    model_config,
    model_file,
    set_batching,
    write_model,
)
from care_accel.serving.repository.python_backend import (
    MODELS,
    care_parameter,
    require_index,
    scan_config,
    search_ensemble,
)
from care_accel.serving.tokenizer_model import FOLDER, save_tokenizing, tokenizing

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
# File name that each backend expects in a version folder.
_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
# The export used by each engine, and its file.
_EXPORTS = {"onnxruntime": ("onnx", GRAPH), "tensorrt": ("tensorrt", ENGINE)}
_PARTS = ("tokenizer", "network", "encoder")
_TEXTS = (Tensor("TEXT", "BYTES"), Tensor("TASK", "BYTES", optional=True))
_TOKENS = tuple(Tensor(name, "INT64", (-1,)) for name in INPUTS)
# All cores within a node; the graph is a chain, so inter-op parallelism gains nothing.
_THREADS = {"intra_op_thread_count": "0", "inter_op_thread_count": "1", "execution_mode": "0"}

_BATCH = max(bucket.batch for bucket in BUCKETS)
_QUEUE: dict[Role, int] = {"query": 8 * _BATCH, "document": 4 * _BATCH}
_WAIT_US: dict[Role, int] = {"query": 2_000_000, "document": 60_000_000}
# Padding limit and batching delay of the tokenizers; measured in bench/serving/engine_batches.py. On a GPU a batch of 16 takes hardly
# longer than one text, so a delay of 0.5 ms pays; on a CPU the work is proportional to the tokens.
_GPU_STRETCH, _GPU_DELAY_US = 8, 500
_CPU_STRETCH, _CPU_DELAY_US = 1, 0
_WARM_UP_TEXT = "高血压患者应低盐饮食，遵医嘱服用降压药，定期测量血压。"


def write_engine_repository(
    folder: str | Path,
    model: str | Path = DEFAULT,
    *,
    engine: str,
    index: str | Path | None = None,
    roles: Sequence[Role] = ROLES,
    gpu: bool = False,
    queue_limits: bool = False,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> None:
    """Write a repository that serves a dual encoder with ONNX Runtime or TensorRT.

    It is self-contained: a container needs this package for its tokenizers, but not the model.

    Parameters
    ----------
    folder : str or Path
        Replaced if it contains a model repository of this package and nothing else.
    model : str or Path
        As for `DualEncoder.from_pretrained`.
    engine : {"onnxruntime", "tensorrt"}
        ``tensorrt`` uses engines built by ``care-accel export --runtime tensorrt``, which require the same kind of GPU
        and release of TensorRT; ``onnxruntime`` uses an exported graph, or exports one.
    index : str or Path, optional
        A saved `Retriever` or `ExactIndex` of the same model: adds ``scan`` and ``search``, which run in this package
        and load the folder from its present path.
    roles : sequence of {"query", "document"}
    gpu : bool
        Run ONNX Runtime on every GPU instead of the CPU; TensorRT always runs on GPUs.
    queue_limits : bool
        Set a queue policy (maximum size and timeout). Off by default: before the fix of July 2026 (pull request 509 of
        the server's core) a policy stalls the batcher for seconds under ordinary load.
    progress : callable, optional
        Called with a message for each slow step.
    **options
        Options of `DualEncoder.from_pretrained`. ``dtype`` is the export's for TensorRT and float32 for ONNX Runtime.

    Raises
    ------
    CareError
        The engine is unknown, an encoder was not exported for it, or ``folder`` contains something else.
    """
    say = progress or (lambda _: None)
    found = _find(model, engine, options)
    served = [
        _EncoderWriter(found, role, engine, gpu or engine == "tensorrt", queue_limits)
        for role in ROLES
        if role in roles
    ]
    if not served:
        raise CareError("roles is empty; give query, document or both")
    for one in served:
        one.require()
    if index is not None:
        index = located(index)
        require_index(index, found)
        if "query" not in roles:
            raise CareError("an index needs the query encoder; add the role query")
    others = [*MODELS, *(f"{role}_{part}" for role in ROLES for part in _PARTS)]
    manifest = f"{served[0].role}_encoder"
    with replaced_folder(
        Path(folder), manifest, [o for o in others if o != manifest], private=False
    ) as built:
        for one in served:
            say(f"{one.role} encoder: writing it for {engine}")
            one.write(built)
            write_model(built, one.ensemble())
        if index is not None:
            config = scan_config(found, {}, index, gpu=served[0].gpu)
            write_model(built, config, {"1/model.py": model_file("scan_model", "ScanModel")})
            write_model(built, _search(served[0].max_batch, collection=names_collection(index)))


def lengths_for(max_tokens: int, *, gpu: bool) -> list[int]:
    """Return the lengths that sequences are padded to, ascending up to ``max_tokens``.

    Few lengths make full batches, as only requests of equal shape are batched; many lengths waste less on padding. A CPU,
    whose work is proportional to the tokens, gets steps of a third to a half; a GPU, which is insensitive to short
    sequences, powers of two. The lengths of a TensorRT engine's buckets are among them.
    """
    powers = [2**n for n in range(3, max(4, max_tokens.bit_length()))]
    lengths = [n for n in powers if n >= 16] if gpu else [m for n in powers for m in (n, n + n // 2)]
    return sorted({n for n in lengths if n < max_tokens} | {max_tokens})


@dataclass(frozen=True)
class _EncoderWriter:
    """Writer of one encoder: its tokenizer, its network and the ensemble of both."""

    model: DualEncoder
    role: Role
    engine: str
    gpu: bool
    queue_limits: bool

    @property
    def source(self) -> Source:
        return self.model.source(self.role)

    @property
    def network(self) -> str:
        """Name of the network model; shared by both roles if they differ only in prompts."""
        query, document = (replace(self.model.spec(role), prompts={}) for role in ROLES)
        return "query_network" if self.model.symmetric and query == document else f"{self.role}_network"

    @property
    def lengths(self) -> list[int]:
        return lengths_for(self.source.spec.max_tokens, gpu=self.gpu)

    @cached_property
    def artefact(self) -> Artefact | None:
        """The matching export of this encoder, or None."""
        found = Artefact.find(self.source.checkpoint.folder, _EXPORTS[self.engine][0])
        return None if found is None or self._mismatch(found) else found

    @property
    def buckets(self) -> list[Bucket]:
        """Optimisation profiles of the engine; empty for a graph, which takes any shape."""
        if self.engine != "tensorrt" or self.artefact is None:
            return []
        return [Bucket(*shape) for shape in self.artefact.values["buckets"]]

    @property
    def max_batch(self) -> int:
        """Maximum batch size, and texts per request."""
        return max((bucket.batch for bucket in self.buckets), default=_BATCH)

    def require(self) -> None:
        """Check that the engine was built, before anything is written."""
        if self.engine == "tensorrt" and self.artefact is None:
            found = Artefact.find(self.source.checkpoint.folder, "tensorrt")
            why = "nothing was exported for TensorRT" if found is None else self._mismatch(found)
            raise CareError(
                f"{self.source.checkpoint.folder}: {why}; care-accel export --runtime tensorrt "
                f"--role {self.role} builds an engine on a machine with the GPU"
            )

    def _mismatch(self, found: Artefact) -> str | None:
        fingerprint = self.source.recorded or self.source.checkpoint.fingerprint
        return found.mismatch(fingerprint, self.source.spec)

    def write(self, repository: Path) -> None:
        """Write the models of this encoder, except a shared network that exists already."""
        checkpoint = self.source.checkpoint
        encoder = tokenizing(self.source.spec, checkpoint.load_tokenizer(), checkpoint.load_vocabulary())
        config, files = self._tokenizer()
        save_tokenizing(encoder, write_model(repository, config, files) / VERSION / FOLDER)
        if not (repository / self.network).exists():
            version = repository / self.network / VERSION
            version.mkdir(parents=True)
            self._write_network(version)
            write_model(repository, *self._network(encoder))

    def _tokenizer(self) -> tuple[ModelConfig, dict[str, Any]]:
        config = model_config(
            f"{self.role}_tokenizer",
            backend="python",
            inputs=_TEXTS,
            outputs=[*_TOKENS, Tensor("TOKENS", "INT32")],
            max_batch_size=self.max_batch,
            parameters={
                "care": care_parameter(self.model, self.role),
                "lengths": json.dumps(self.lengths),
                "stretch": json.dumps(_GPU_STRETCH if self.gpu else _CPU_STRETCH),
            },
        )
        add_instances(config)
        self._set_batching(config, _GPU_DELAY_US if self.gpu else _CPU_DELAY_US)
        files = add_warmup(config, "text", {"TEXT": _WARM_UP_TEXT.encode()})
        return config, files | {"1/model.py": model_file("tokenizer_model", "TokenizerModel")}

    def _network(self, encoder: Encoder) -> tuple[ModelConfig, dict[str, Any]]:
        on_processor = self.engine == "onnxruntime" and not self.gpu
        config = model_config(
            self.network,
            platform=PLATFORMS[self.engine],
            inputs=_TOKENS,
            outputs=[Tensor(OUTPUT, "FP32", (self.model.width,))],
            max_batch_size=self.max_batch,
            parameters=_THREADS if on_processor else None,
        )
        add_instances(config, kind="GPU" if self.gpu else "CPU")
        if self.engine == "tensorrt":
            # One execution context per profile; the server selects the best fit for each batch.
            config.instance_group[0].profile.extend(str(i) for i in range(len(self.buckets)))
        elif self.gpu:
            # On a GPU, ONNX Runtime uses TensorFloat-32 by default, with errors of 1e-3.
            accelerators = config.optimization.execution_accelerators
            accelerators.gpu_execution_accelerator.add(name="cuda").parameters["use_tf32"] = "0"
        self._set_batching(config)
        return config, self._warm_up(config, encoder)

    def _warm_up(self, config: ModelConfig, encoder: Encoder) -> dict[str, Any]:
        """Add warm-up requests for every length of a single text, and for every profile."""
        shapes = {(1, tokens) for tokens in self.lengths} | {
            (bucket.batch, bucket.tokens) for bucket in self.buckets if bucket.tokens in self.lengths
        }
        longest = self.source.spec.max_tokens
        (row,) = encoder.tokenize([_WARM_UP_TEXT * longest])
        files: dict[str, Any] = {}
        for batch, tokens in sorted(shapes):
            ids, mask = encoder.pad([row[:tokens]])
            samples = dict(zip(INPUTS, (ids[0], mask[0]), strict=True))
            files |= add_warmup(config, f"batch{batch}_tokens{tokens}", samples, batch_size=batch)
        return files

    def _write_network(self, version: Path) -> None:
        exported = _EXPORTS[self.engine][1]
        if self.artefact is None:
            write_graph(
                self.source.checkpoint.load_network("float32"),
                self.source.spec,
                version / _FILES[self.engine],
                self.source.checkpoint.load_dense(self.source.spec),
            )
            return
        shutil.copyfile(self.artefact.checked(exported), version / _FILES[self.engine])
        for weights in self.artefact.folder.glob(f"{GRAPH}.*"):  # external weights of a large graph
            shutil.copyfile(weights, version / weights.name)

    def ensemble(self) -> ModelConfig:
        """Return the ensemble of the encoder: TEXT and TASK to EMBEDDING and TOKENS."""
        between = {name: name for name in INPUTS}
        return model_config(
            f"{self.role}_encoder",
            inputs=_TEXTS,
            outputs=[Tensor("EMBEDDING", "FP32", (self.model.width,)), Tensor("TOKENS", "INT32")],
            max_batch_size=self.max_batch,
            parameters={"care": care_parameter(self.model, self.role)},
            steps=[
                Step(
                    f"{self.role}_tokenizer",
                    {tensor.name: tensor.name for tensor in _TEXTS},
                    between | {"TOKENS": "TOKENS"},
                ),
                Step(self.network, between, {OUTPUT: "EMBEDDING"}),
            ],
        )

    def _set_batching(self, config: ModelConfig, delay_us: int = 0) -> None:
        if not self.queue_limits:
            set_batching(config, delay_us=delay_us)
            return
        set_batching(config, delay_us=delay_us, queue=_QUEUE[self.role], timeout_us=_WAIT_US[self.role])
        # Clients may set a shorter timeout.
        config.dynamic_batching.default_queue_policy.allow_timeout_override = True


def _search(max_batch: int, *, collection: bool) -> ModelConfig:
    """Return the ensemble ``search``; its first two TIMES are 0, as an ensemble does not measure its steps."""
    config = search_ensemble(collection=collection)
    config.max_batch_size = min(config.max_batch_size, max_batch)
    encoder, scan = config.ensemble_scheduling.step
    del encoder.output_map["TIMES"], scan.input_map["ENCODE_TIMES"]
    return config


def _find(model: str | Path, engine: str, options: Mapping[str, Any]) -> DualEncoder:
    """Load the dual encoder in the precision of the engine."""
    if engine not in PLATFORMS:
        raise CareError(f"unknown engine {engine!r}; choose one of {', '.join(PLATFORMS)}")
    dtype = options.get("dtype")
    if dtype == "int8":
        raise CareError("int8 needs the native runtime in the Python backend; omit --engine")
    options = {name: value for name, value in options.items() if value is not None}
    if engine == "onnxruntime":
        if dtype not in (None, "float32"):
            raise CareError(f"graphs for ONNX Runtime are float32, not {dtype}; omit the precision")
        options["dtype"] = "float32"
    found = None if options.get("query") is not None else model
    return DualEncoder.from_pretrained(found, **options)
