"""Which runtime an encoder gets, and why: the fastest that is here and whose vectors can be trusted."""

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

# What `auto` asks, the fastest first.
_ON_GPU = ("tensorrt", "pytorch")
_ON_CPU = ("native", "onnx", "pytorch")
_REASONS = {
    "tensorrt": "an exported engine of this GPU",
    "native": "the own engine runs this network fastest on a CPU",
    "onnx": "an exported graph",
    "pytorch": "runs every network",
}
_NATIVE = "care_accel.encoding.runtimes.native"


@dataclass(frozen=True)
class Choice:
    """What runs an encoder.

    Attributes
    ----------
    runtime : {"pytorch", "onnx", "native", "tensorrt", "server"}
    dtype : str
        Precision of the network.
    device : str
        Of the runtime ``server``, its address.
    threads : int or None
        Of one call on the CPU; None on a GPU.
    reason : str
    passed_over : dict of str to str
        Faster runtimes that were not taken, and why.
    """

    runtime: str
    dtype: str
    device: str
    threads: int | None
    reason: str
    passed_over: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, ...]:
        """What may change the last bits of a vector; of a server, which one: what runs there is its own choice."""
        return (self.runtime, self.dtype, *([self.device] if self.runtime == "server" else []))


def require_runtime(name: str) -> None:
    """Refuse what is no runtime.

    Raises
    ------
    CareError
        With the names that are.
    """
    if name == "server":
        raise CareError("runtime 'server' has its networks elsewhere; use DualEncoder.from_server(address)")
    if name not in RUNTIMES:
        raise CareError(f"unknown runtime {name!r}; choose one of {', '.join(RUNTIMES)}")


def choose(source: Source, wanted: str = "auto") -> Choice:
    """Choose the runtime of an encoder.

    Parameters
    ----------
    source : Source
    wanted : {"auto", "pytorch", "onnx", "native", "tensorrt"}

    Raises
    ------
    CareError
        The wanted runtime cannot run this encoder here, or none can; the message says why.
    """
    require_runtime(wanted)
    device = resolve_device(source.spec.device)
    # A runtime that was named, or the precision of one, decides the device where the spec leaves it open.
    if source.spec.device == "auto" and (wanted in ("native", "onnx") or source.spec.dtype == "int8"):
        device = "cpu"
    on_gpu = device.startswith("cuda")
    names = (wanted,) if wanted != "auto" else _ON_GPU if on_gpu else _ON_CPU
    hindrances: dict[str, str] = {}
    for name in names:
        hindrance = _hindrance(name, source, device, named=wanted != "auto")
        if hindrance is None:
            return Choice(
                runtime=name,
                dtype=source.spec.dtype,
                device=device,
                threads=None if on_gpu else len(os.sched_getaffinity(0)),
                reason="asked for" if wanted != "auto" else _REASONS[name],
                passed_over=hindrances,
            )
        hindrances[name] = hindrance
    why = "; ".join(f"{name}: {hindrance}" for name, hindrance in hindrances.items())
    mend = "" if wanted == "auto" else "; runtime='auto' takes for each role one that can"
    raise CareError(f"{source.checkpoint.folder}: no runtime for this encoder on {device}: {why}{mend}")


def load_exported(choice: Choice, source: Source) -> Runtime:
    """Load the runtime that was chosen, which is another than PyTorch's.

    Raises
    ------
    CareError
        Its files are not those that were exported, or cannot be loaded.
    """
    if choice.runtime == "native":
        return import_module(_NATIVE).NativeRuntime(source.checkpoint.load_network("float32"), source.spec)
    artefact = Artefact.find(source.checkpoint.folder, choice.runtime)
    assert artefact is not None  # as it was chosen
    if choice.runtime == "onnx":
        return OnnxRuntime(artefact.checked(GRAPH))
    buckets = [Bucket(*shape) for shape in artefact.values["buckets"]]
    return TensorRTRuntime(artefact.checked(ENGINE), buckets, source.spec.width, choice.device)


def with_int8(found: Sources) -> Sources:
    """Return the encoders with dtype int8 where the native runtime can run them so.

    Raises
    ------
    CareError
        It can run neither.
    """
    query, document = (
        replace(source, spec=replace(source.spec, dtype="int8")) for source in (found.query, found.document)
    )
    hindrances = [_native(source, "cpu", True) for source in (query, document)]
    if all(hindrances):
        both = " and ".join(dict.fromkeys(map(str, hindrances)))
        raise CareError(f"{found.name}: dtype is 'int8', which is of the native runtime: {both}")
    return Sources(
        found.name,
        found.query if hindrances[0] else query,
        found.document if hindrances[1] else document,
    )


def require_compiling(found: Sources, wanted: str) -> None:
    """Refuse ``compiled=True`` where it would change nothing: no role's network runs in PyTorch on a GPU.

    Raises
    ------
    CareError
        With what runs instead.
    """
    instead = []
    for role, source in zip(ROLES, (found.query, found.document), strict=True):
        try:
            choice = choose(source, wanted)
        except CareError as hindrance:  # of a role that may never be used
            instead.append(f"{role}: {hindrance}")
            continue
        if choice.runtime == "pytorch" and choice.device.startswith("cuda"):
            return
        instead.append(f"{role} is run by {choice.runtime} on {choice.device}")
    raise CareError(
        f"{found.name}: compiled=True is of PyTorch on a GPU, and here {' and '.join(instead)}; leave it out"
    )


def _hindrance(name: str, source: Source, device: str, *, named: bool) -> str | None:
    """Say why a runtime cannot run an encoder; None if it can."""
    return {"pytorch": _pytorch, "native": _native, "onnx": _onnx, "tensorrt": _tensorrt}[name](
        source, device, named
    )


def _pytorch(source: Source, device: str, named: bool) -> str | None:
    return "int8 is of the native runtime only; give dtype='float32'" if source.spec.dtype == "int8" else None


def _native(source: Source, device: str, named: bool) -> str | None:
    if find_spec(_NATIVE) is None:
        return "this release has no native engine"
    if device != "cpu":
        return f"runs on the CPU, not on {device}"
    return import_module(_NATIVE).NativeRuntime.refusal(source.checkpoint.config, source.spec)


def _onnx(source: Source, device: str, named: bool) -> str | None:
    if device != "cpu":
        return f"runs on the CPU, not on {device}"
    if hindrance := _of_artefact("onnx", source, named):
        return hindrance
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install 'care-accel[onnx]'"
    return None


def _tensorrt(source: Source, device: str, named: bool) -> str | None:
    try:
        tensorrt = import_tensorrt()
    except CareError as missing:
        return str(missing)
    if not device.startswith("cuda"):
        return f"runs on an NVIDIA GPU, not on {device}"
    if hindrance := _of_artefact("tensorrt", source, named):
        return hindrance
    artefact = Artefact.find(source.checkpoint.folder, "tensorrt")
    assert artefact is not None
    return stamp_mismatch(artefact.values.get("versions") or {}, stamp(tensorrt))


def _of_artefact(name: str, source: Source, named: bool) -> str | None:
    artefact = Artefact.find(source.checkpoint.folder, name)
    if artefact is None:
        return f"nothing was exported for it (care-accel export --runtime {name})"
    fingerprint = source.recorded or source.checkpoint.fingerprint
    if hindrance := artefact.mismatch(fingerprint, source.spec):
        return hindrance
    if not named and artefact.values.get("batch_invariant") is not True:
        return "its vectors depend on their neighbours in a batch"
    return None
