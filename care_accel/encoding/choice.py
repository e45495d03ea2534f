"""Selects the runtime of an encoder: the fastest available one whose vectors do not depend on the batch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Literal, get_args

from care_accel.encoding.loading.sources import Source, Sources
from care_accel.encoding.runtimes import Runtime
from care_accel.encoding.runtimes.artefact import Artefact
from care_accel.encoding.runtimes.onnxruntime_cpu import GRAPH, OnnxRuntime
from care_accel.encoding.runtimes.pytorch import resolve_device
from care_accel.encoding.runtimes.tensorrt_engine import (
    ENGINE,
    Bucket,
    TensorRTRuntime,
    import_tensorrt,
    stamp,
    stamp_mismatch,
)
from care_accel.encoding.spec import ROLES
from care_accel.errors import CareError

RuntimeName = Literal["auto", "pytorch", "onnx", "native", "tensorrt"]
RUNTIMES: tuple[str, ...] = get_args(RuntimeName)

# Candidates of `auto`, fastest first.
_ON_GPU = ("tensorrt", "pytorch")
_ON_CPU = ("native", "onnx", "pytorch")
_REASONS = {
    "tensorrt": "exported engine for this GPU",
    "native": "fastest CPU runtime for this network",
    "onnx": "exported ONNX graph",
    "pytorch": "supports every network",
}
_NATIVE = "care_accel.encoding.runtimes.native"


@dataclass(frozen=True)
class Choice:
    """The selected runtime of an encoder.

    Attributes
    ----------
    runtime : {"pytorch", "onnx", "native", "tensorrt", "server"}
    dtype : str
        Precision of the network.
    device : str
        Device, or the address for the runtime ``server``.
    threads : int or None
        CPU threads per call; None on a GPU.
    reason : str
        Why this runtime was selected.
    rejected : dict of str to str
        Faster runtimes that cannot be used, with the reason.
    """

    runtime: str
    dtype: str
    device: str
    threads: int | None
    reason: str
    rejected: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, ...]:
        """Runtime and dtype, which may change the last bits of a vector; for a server, its address too."""
        return (self.runtime, self.dtype, *([self.device] if self.runtime == "server" else []))


def require_runtime(name: str) -> None:
    """Check the name of a runtime.

    Raises
    ------
    CareError
        The name is unknown; the message lists the known ones.
    """
    if name == "server":
        raise CareError("runtime 'server' runs in another process; use DualEncoder.from_server(address)")
    if name not in RUNTIMES:
        raise CareError(f"unknown runtime {name!r}; choose one of {', '.join(RUNTIMES)}")


def choose(source: Source, requested: str = "auto") -> Choice:
    """Select the runtime of an encoder.

    Parameters
    ----------
    source : Source
    requested : {"auto", "pytorch", "onnx", "native", "tensorrt"}

    Raises
    ------
    CareError
        The requested runtime cannot run this encoder here, or no runtime can; the message gives the reasons.
    """
    require_runtime(requested)
    # A CPU-only runtime or dtype decides the device if the spec leaves it open.
    cpu_only = requested in ("native", "onnx") or source.spec.dtype == "int8"
    device = "cpu" if source.spec.device == "auto" and cpu_only else resolve_device(source.spec.device)
    on_gpu = device.startswith("cuda")
    names = (requested,) if requested != "auto" else _ON_GPU if on_gpu else _ON_CPU
    rejected: dict[str, str] = {}
    for name in names:
        problem = _problem(name, source, device, explicit=requested != "auto")
        if problem is None:
            return Choice(
                runtime=name,
                dtype=source.spec.dtype,
                device=device,
                threads=None if on_gpu else len(os.sched_getaffinity(0)),
                reason="requested" if requested != "auto" else _REASONS[name],
                rejected=rejected,
            )
        rejected[name] = problem
    reasons = "; ".join(f"{name}: {problem}" for name, problem in rejected.items())
    hint = "" if requested == "auto" else "; runtime='auto' selects a supported one for each role"
    raise CareError(f"{source.checkpoint.folder}: no runtime for this encoder on {device}: {reasons}{hint}")


def load_runtime(choice: Choice, source: Source) -> Runtime:
    """Load the selected runtime: native, ONNX or TensorRT.

    Raises
    ------
    CareError
        Exported files were changed or cannot be loaded.
    """
    if choice.runtime == "native":
        native = import_module(_NATIVE)
        weights = source.checkpoint.read_weights()
        if weights is None:
            network = source.checkpoint.load_network("float32")
        else:
            network = native.PlainNetwork(source.checkpoint.settings, weights)
        return native.NativeRuntime(network, source.spec)
    artefact = Artefact.find(source.checkpoint.folder, choice.runtime)
    assert artefact is not None  # `choose` found it
    if choice.runtime == "onnx":
        return OnnxRuntime(artefact.checked(GRAPH))
    buckets = [Bucket(*shape) for shape in artefact.values["buckets"]]
    return TensorRTRuntime(artefact.checked(ENGINE), buckets, source.spec.width, choice.device)


def with_int8(sources: Sources) -> Sources:
    """Set dtype int8 on the encoders that the native runtime supports in int8.

    Raises
    ------
    CareError
        It supports neither.
    """
    query, document = (
        replace(source, spec=replace(source.spec, dtype="int8"))
        for source in (sources.query, sources.document)
    )
    problems = [_native_problem(source, "cpu", True) for source in (query, document)]
    if all(problems):
        both = " and ".join(dict.fromkeys(map(str, problems)))
        raise CareError(f"{sources.name}: dtype 'int8' needs the native runtime: {both}")
    return Sources(
        sources.name,
        sources.query if problems[0] else query,
        sources.document if problems[1] else document,
    )


def require_compilable(sources: Sources, requested: str) -> None:
    """Refuse ``compiled=True`` if it has no effect: neither network runs in PyTorch on a GPU.

    Raises
    ------
    CareError
        The message names the runtimes in use.
    """
    in_use = []
    for role, source in zip(ROLES, (sources.query, sources.document), strict=True):
        try:
            choice = choose(source, requested)
        except CareError as problem:  # this role may never be used
            in_use.append(f"{role}: {problem}")
            continue
        if choice.runtime == "pytorch" and choice.device.startswith("cuda"):
            return
        in_use.append(f"{role} uses {choice.runtime} on {choice.device}")
    raise CareError(
        f"{sources.name}: compiled=True needs PyTorch on a GPU, but {' and '.join(in_use)}; remove compiled=True"
    )


def _problem(name: str, source: Source, device: str, *, explicit: bool) -> str | None:
    """Return why a runtime cannot run an encoder, None if it can; ``explicit`` if the user named the runtime."""
    return {
        "pytorch": _pytorch_problem,
        "native": _native_problem,
        "onnx": _onnx_problem,
        "tensorrt": _tensorrt_problem,
    }[name](source, device, explicit)


def _pytorch_problem(source: Source, device: str, explicit: bool) -> str | None:
    return "int8 needs the native runtime; use dtype='float32'" if source.spec.dtype == "int8" else None


def _native_problem(source: Source, device: str, explicit: bool) -> str | None:
    if find_spec(_NATIVE) is None:
        return "this build has no native engine"
    if device != "cpu":
        return f"runs on the CPU, not on {device}"
    if source.spec.dense:
        return "does not run dense layers after pooling"
    if not source.spec.include_prompt:
        return "does not leave the prompt out of pooling"
    return import_module(_NATIVE).NativeRuntime.unsupported_reason(source.checkpoint.settings, source.spec)


def _onnx_problem(source: Source, device: str, explicit: bool) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, not on {device}"
    if problem := _artefact_problem("onnx", source, explicit):
        return problem
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install 'care-accel[onnx]'"
    return None


def _tensorrt_problem(source: Source, device: str, explicit: bool) -> str | None:
    try:
        tensorrt = import_tensorrt()
    except CareError as missing:
        return str(missing)
    if not device.startswith("cuda"):
        return f"runs on an NVIDIA GPU, not on {device}"
    if problem := _artefact_problem("tensorrt", source, explicit):
        return problem
    artefact = Artefact.find(source.checkpoint.folder, "tensorrt")
    assert artefact is not None
    return stamp_mismatch(artefact.values.get("versions") or {}, stamp(tensorrt))


def _artefact_problem(name: str, source: Source, explicit: bool) -> str | None:
    artefact = Artefact.find(source.checkpoint.folder, name)
    if artefact is None:
        return f"no export found (run care-accel export --runtime {name})"
    fingerprint = source.recorded or source.checkpoint.fingerprint
    if problem := artefact.mismatch(fingerprint, source.spec):
        return problem
    if not explicit and artefact.values.get("batch_invariant") is not True:
        return "its vectors depend on the other texts in the batch"
    return None
