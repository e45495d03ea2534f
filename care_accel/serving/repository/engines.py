"""Writes model repositories in which a backend of NVIDIA's containers runs the networks: ONNX Runtime or TensorRT.

Each encoder is an ensemble: ``query_tokenizer`` (Python backend: TEXT to token ids), then ``query_network`` (a graph or an
engine that holds network, pooling, slicing and normalising). The Python backend's repository is `care_accel.serving.repository.python_backend`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.encoding import ROLES, DualEncoder, Encoder, Role
from care_accel.encoding.loading.sources import DEFAULT, Source
from care_accel.encoding.runtimes.artefact import Artefact
from care_accel.encoding.runtimes.onnxruntime_cpu import GRAPH, INPUTS, OUTPUT
from care_accel.encoding.runtimes.tensorrt_engine import BUCKETS, ENGINE, Bucket
from care_accel.errors import CareError
from care_accel.export.graph import write_graph
from care_accel.files import replaced_folder
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
# What each backend looks for in a version's folder.
_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
# The export that each takes, and its file in there.
_EXPORTS = {"onnxruntime": ("onnx", GRAPH), "tensorrt": ("tensorrt", ENGINE)}
_PARTS = ("tokenizer", "network", "encoder")
_TEXTS = (Tensor("TEXT", "BYTES"), Tensor("TASK", "BYTES", optional=True))
_TOKENS = tuple(Tensor(name, "INT64", (-1,)) for name in INPUTS)
# Of one call: every core, as the library does it; the graph is a chain, so nodes gain nothing by running in parallel.
_THREADS = {"intra_op_thread_count": "0", "inter_op_thread_count": "1", "execution_mode": "0"}

_BATCH = max(bucket.batch for bucket in BUCKETS)
_QUEUE: dict[Role, int] = {"query": 8 * _BATCH, "document": 4 * _BATCH}
_WAIT_US: dict[Role, int] = {"query": 2_000_000, "document": 60_000_000}
# How tokenizers gather requests into one shape; measured in bench/engine_batches.py. On a GPU a batch of 16 takes hardly longer
# than one text, so waiting half a millisecond for company pays; a processor's work grows with every token.
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
    """Write a repository that serves a dual encoder's networks by ONNX Runtime or TensorRT.

    Everything is copied into it: a container needs this package for its tokenizers, but not the model.

    Parameters
    ----------
    folder : str or Path
        Replaced whole if it holds a model repository of this package and nothing else.
    model : str or Path
        As for `DualEncoder.from_pretrained`.
    engine : {"onnxruntime", "tensorrt"}
        ``tensorrt`` takes the engines that ``care-accel export --runtime tensorrt`` built, which run on that kind of
        GPU with that release of TensorRT; ``onnxruntime`` takes an exported graph, or makes one now.
    index : str or Path, optional
        A saved `Retriever` or `ExactIndex` of the same model: ``scan`` and ``search`` are served as well, by this
        package, and the folder has to be where it is now. Neither is served without one.
    roles : sequence of {"query", "document"}
    gpu : bool
        Run ONNX Runtime on each GPU instead of the processor; TensorRT always runs there.
    queue_limits : bool
        Refuse requests that wait behind too many or for too long. Not by default: until the mend of July 2026
        (pull request 509 of the server's core) a limit stalls the server's batcher for seconds under ordinary load.
    progress : callable, optional
        Called with a line for each step that takes long.
    **options
        Of `DualEncoder.from_pretrained`. ``dtype`` is the export's for TensorRT and float32 for ONNX Runtime.

    Raises
    ------
    CareError
        There is no such engine; an encoder was not exported for it; or ``folder`` holds something else.
    """
    say = progress or (lambda _: None)
    found = _find(model, engine, options)
    served = [
        _Served(found, role, engine, gpu or engine == "tensorrt", queue_limits)
        for role in ROLES
        if role in roles
    ]
    if not served:
        raise CareError("no encoder is to be served; give the role query, document or both")
    for one in served:
        one.require()
    if index is not None:
        require_index(index, found)
        if "query" not in roles:
            raise CareError("an index is searched with queries; serve the role query as well")
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
            config = scan_config(found, {}, Path(index).resolve(), gpu=served[0].gpu)
            write_model(built, config, {"1/model.py": model_file("scan_model", "ScanModel")})
            write_model(built, _search(served[0].most))


def lengths_for(max_tokens: int, *, gpu: bool) -> list[int]:
    """Return the lengths that texts are padded to, in rising order; the last one is ``max_tokens``.

    Few lengths make full batches, as only requests of one shape are joined; many lengths leave little to compute in vain.
    A processor, whose work grows with every token, gets steps of a third to a half, and a GPU, which hardly notices short
    texts, doublings. The lengths of a TensorRT engine's buckets are among them.
    """
    powers = [2**n for n in range(3, max(4, max_tokens.bit_length()))]
    lengths = [n for n in powers if n >= 16] if gpu else [m for n in powers for m in (n, n + n // 2)]
    return sorted({n for n in lengths if n < max_tokens} | {max_tokens})


@dataclass(frozen=True)
class _Served:
    """One encoder on its way into a repository: its tokenizer, its network and the ensemble of the two."""

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
        """The model that runs this encoder's network: one serves both roles where only prompts differ."""
        query, document = (replace(self.model.spec(role), prompts={}) for role in ROLES)
        return "query_network" if self.model.symmetric and query == document else f"{self.role}_network"

    @property
    def lengths(self) -> list[int]:
        return lengths_for(self.source.spec.max_tokens, gpu=self.gpu)

    @cached_property
    def artefact(self) -> Artefact | None:
        """The export of this encoder's network, None if there is none that fits."""
        found = Artefact.find(self.source.checkpoint.folder, _EXPORTS[self.engine][0])
        return None if found is None or self._mismatch(found) else found

    @property
    def buckets(self) -> list[Bucket]:
        """The profiles of the engine; none of a graph, which takes any shape."""
        if self.engine != "tensorrt" or self.artefact is None:
            return []
        return [Bucket(*shape) for shape in self.artefact.values["buckets"]]

    @property
    def most(self) -> int:
        """Texts of a request, and of a batch, at most."""
        return max((bucket.batch for bucket in self.buckets), default=_BATCH)

    def require(self) -> None:
        """Refuse an engine that was not built, before anything is written."""
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
        """Write the three models, or two where the network is there already."""
        checkpoint = self.source.checkpoint
        encoder = tokenizing(self.source.spec, checkpoint.load_tokenizer(), checkpoint.load_vocabulary())
        config, files = self._tokenizer()
        save_tokenizing(encoder, write_model(repository, config, files) / VERSION / FOLDER)
        if not (repository / self.network).exists():
            place = repository / self.network / VERSION
            place.mkdir(parents=True)
            self._write_network(place)
            write_model(repository, *self._network(encoder))

    def _tokenizer(self) -> tuple[ModelConfig, dict[str, Any]]:
        config = model_config(
            f"{self.role}_tokenizer",
            backend="python",
            inputs=_TEXTS,
            outputs=[*_TOKENS, Tensor("TOKENS", "INT32")],
            max_batch_size=self.most,
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
            max_batch_size=self.most,
            parameters=_THREADS if on_processor else None,
        )
        add_instances(config, kind="GPU" if self.gpu else "CPU")
        if self.engine == "tensorrt":
            # Each profile gets a context of its own, and a batch the one that fits it best.
            config.instance_group[0].profile.extend(str(i) for i in range(len(self.buckets)))
        elif self.gpu:
            # On a GPU ONNX Runtime rounds factors to TensorFloat-32, to 1e-3, unless it is told not to.
            accelerators = config.optimization.execution_accelerators
            accelerators.gpu_execution_accelerator.add(name="cuda").parameters["use_tf32"] = "0"
        self._set_batching(config)
        return config, self._warm_up(config, encoder)

    def _warm_up(self, config: ModelConfig, encoder: Encoder) -> dict[str, Any]:
        """Let every shape that a text alone can have, and every profile's own, run before the server is ready."""
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

    def _write_network(self, place: Path) -> None:
        exported = _EXPORTS[self.engine][1]
        if self.artefact is None:
            write_graph(
                self.source.checkpoint.load_network("float32"), self.source.spec, place / _FILES[self.engine]
            )
            return
        shutil.copyfile(self.artefact.checked(exported), place / _FILES[self.engine])
        for beside in self.artefact.folder.glob(f"{GRAPH}.*"):  # weights that a graph has no room for
            shutil.copyfile(beside, place / beside.name)

    def ensemble(self) -> ModelConfig:
        """Return the encoder that clients know: TEXT and TASK to EMBEDDING and TOKENS."""
        between = {name: name for name in INPUTS}
        return model_config(
            f"{self.role}_encoder",
            inputs=_TEXTS,
            outputs=[Tensor("EMBEDDING", "FP32", (self.model.width,)), Tensor("TOKENS", "INT32")],
            max_batch_size=self.most,
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
        # A client that waits for less says so, and is refused earlier.
        config.dynamic_batching.default_queue_policy.allow_timeout_override = True


def _search(most: int) -> ModelConfig:
    """Return the ensemble ``search``; its first two TIMES are 0, as no ensemble knows what its steps took."""
    config = search_ensemble()
    config.max_batch_size = min(config.max_batch_size, most)
    encoder, scan = config.ensemble_scheduling.step
    del encoder.output_map["TIMES"], scan.input_map["ENCODE_TIMES"]
    return config


def _find(model: str | Path, engine: str, options: Mapping[str, Any]) -> DualEncoder:
    """Find the dual encoder in the precision that the engine has."""
    if engine not in PLATFORMS:
        raise CareError(f"unknown engine {engine!r}; choose one of {', '.join(PLATFORMS)}")
    dtype = options.get("dtype")
    if dtype == "int8":
        raise CareError(
            "int8 is of the native runtime, which the Python backend runs and no other; leave out --engine"
        )
    options = {name: value for name, value in options.items() if value is not None}
    if engine == "onnxruntime":
        if dtype not in (None, "float32"):
            raise CareError(f"graphs for ONNX Runtime are float32, not {dtype}; leave out the precision")
        options["dtype"] = "float32"
    found = None if options.get("query") is not None else model
    return DualEncoder.from_pretrained(found, **options)
