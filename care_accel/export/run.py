"""Exports a dual encoder: a folder with an artefact a role, written only if it passes the accuracy gate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from care_accel.encoding import ROLES, DualEncoder, Role
from care_accel.encoding.choice import choose
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.sources import MANIFEST, Sources
from care_accel.encoding.runtimes import artefact
from care_accel.encoding.runtimes.artefact import DESCRIPTION, Artefact, file_digest
from care_accel.encoding.runtimes.onnxruntime_cpu import GRAPH
from care_accel.encoding.runtimes.tensorrt_engine import ENGINE, buckets_for, import_tensorrt, stamp
from care_accel.encoding.spec import EncoderSpec
from care_accel.errors import CareError
from care_accel.export.engine import TIMING_CACHE, build_engine
from care_accel.export.gate import Figures, Gate, Limits
from care_accel.export.graph import write_graph
from care_accel.export.texts import DevSet
from care_accel.export.vocabulary import keep_vocabulary
from care_accel.files import read_json, replaced_folder, write_json
from care_accel.version import __version__

# What each runtime computes in, its default first. PyTorch needs no artefact: it is for --keep-vocab alone.
DTYPES: dict[str, tuple[str, ...]] = {
    "onnx": ("float32",),
    "native": ("int8", "float32"),
    "tensorrt": ("float16", "float32"),
    "pytorch": ("float32", "float16", "bfloat16"),
}
_PACKAGES = ("torch", "transformers", "onnx", "onnxruntime")


def export(
    model: DualEncoder,
    output: str | Path,
    *,
    runtime: str,
    dev: DevSet,
    roles: Sequence[Role] = ("query",),
    dtype: str | None = None,
    texts: Sequence[str] | None = None,
    limits: Limits | None = None,
    keep: Sequence[str] | None = None,
    allow_batch_dependence: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[Role, Figures]:
    """Write a dual encoder with an artefact for a faster runtime, if it is as accurate as the original.

    Parameters
    ----------
    model : DualEncoder
        Its folder may be ``output``: exports for other runtimes that are there are kept.
    output : str or Path
        A dual encoder's folder, replaced whole once all is measured.
    runtime : {"onnx", "native", "tensorrt", "pytorch"}
    dev : DevSet
        Rankings and nDCG@10 are measured on it.
    roles : sequence of {"query", "document"}
        Exported; a symmetric model, whose network serves both, is always exported for both.
    dtype : str, optional
        The runtime's own by default: float32 for ``onnx``, int8 for ``native``, float16 for ``tensorrt``.
    texts : sequence of str, optional
        For the cosines, instead of the set's own.
    limits : Limits, optional
    keep : sequence of str, optional
        Texts whose tokens keep their embeddings; those of all others are left out.
    allow_batch_dependence : bool
        Write a runtime whose vectors depend on their neighbours too; ``runtime="auto"`` never takes it.
    progress : callable, optional
        Called with a line for each step that takes long.

    Returns
    -------
    dict of role to Figures

    Raises
    ------
    CareError
        The gate refuses, with its figures, or something is missing. What was in ``output`` is untouched then.
    """
    say = progress or (lambda _: None)
    limits = limits or Limits()
    dtype = _checked_dtype(runtime, dtype)
    if runtime == "tensorrt":
        import_tensorrt()  # said before anything is written
    roles = ROLES if model.symmetric else tuple(role for role in ROLES if role in roles)
    _require_one_dtype(model, roles, runtime, dtype)
    # Said of the model itself, and before what takes minutes.
    for role in roles:
        source = model.source(role)
        if keep is not None:
            source.checkpoint.require_full_vocabulary("give --keep-vocab with")
        if runtime == "native":
            spec = dataclasses.replace(source.spec, dtype=dtype)  # type: ignore[arg-type]  # checked above
            choose(dataclasses.replace(source, spec=spec), runtime)
    original = DualEncoder(_in_float32(model), "pytorch")
    output = Path(output)
    figures: dict[Role, Figures] = {}
    with replaced_folder(output, MANIFEST, [f"{role}_encoder" for role in ROLES], private=False) as built:
        model.save_pretrained(built, name=output.resolve().name)
        _set_dtype(built, roles, dtype)
        saved = DualEncoder.from_pretrained(built)
        places = {role: saved.source(role).checkpoint.folder for role in roles}
        if keep is not None:
            for place in sorted(set(places.values())):
                say(f"{place.name}: keeping the tokens of {len(keep)} texts")
                kept = keep_vocabulary(place, [saved.spec(r) for r in roles if places[r] == place], keep)
                say(f"{place.name}: {kept.kept} of {len(kept.rows)} tokens kept")
            _record_fingerprints(built)
        writings = {role: _Writing(places[role], saved.spec(role), runtime) for role in roles}
        for place in sorted(set(places.values())):
            say(f"{place.name}: writing it for {runtime}, {dtype}")
            next(w for w in writings.values() if w.place == place).write()
        exported = DualEncoder.from_pretrained(built, runtime=runtime)  # type: ignore[arg-type]
        gate = Gate(original, dev, texts)
        for role in roles:
            say(f"{role}: measuring it against the original in float32 on {dev.name}")
            figures[role] = gate.measure(exported.encoder(role), role)
        _judge(figures, limits, runtime, dtype, allow_batch_dependence, dev.name, output)
        for place in set(places.values()):
            _record(
                place, runtime, {r: figures[r] for r in roles if places[r] == place}, limits, dtype, dev.name
            )
    return figures


@dataclass(frozen=True)
class _Writing:
    """The artefact of one encoder's folder, being written."""

    place: Path
    spec: EncoderSpec
    runtime: str

    def write(self) -> None:
        folder = self.place / artefact.RUNTIMES / self.runtime
        earlier = folder / TIMING_CACHE
        timings = earlier.read_bytes() if earlier.is_file() else b""
        if folder.exists():
            for file in folder.iterdir():
                file.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = Checkpoint(self.place)
        values: dict[str, Any] = {
            "format": artefact.FORMAT,
            "runtime": self.runtime,
            "dtype": self.spec.dtype,
            "fingerprint": checkpoint.fingerprint,
            "spec": {name: getattr(self.spec, name) for name in ("pooling", "order", "width", "max_tokens")},
            "versions": _versions(),
        }
        if self.runtime in ("onnx", "tensorrt"):
            write_graph(checkpoint.load_network("float32"), self.spec, folder / GRAPH)
        if self.runtime == "tensorrt":
            buckets = buckets_for(self.spec.max_tokens)
            half = self.spec.dtype == "float16"
            cache = build_engine(folder / GRAPH, folder / ENGINE, buckets, half=half, timings=timings)
            for file in folder.glob(f"{GRAPH}*"):
                file.unlink()  # the engine has its weights
            (folder / TIMING_CACHE).write_bytes(cache)
            values |= {"buckets": buckets, "versions": values["versions"] | stamp(import_tensorrt())}
        values["files"] = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
        write_json(folder / DESCRIPTION, values)


def _checked_dtype(runtime: str, dtype: str | None) -> str:
    if runtime not in DTYPES:
        raise CareError(f"unknown runtime {runtime!r} of an export; choose one of {', '.join(DTYPES)}")
    dtype = dtype or DTYPES[runtime][0]
    if dtype not in DTYPES[runtime]:
        raise CareError(f"{runtime} is exported as {' or '.join(DTYPES[runtime])}, not as {dtype}")
    return dtype


def _in_float32(model: DualEncoder) -> Sources:
    sources = {
        role: dataclasses.replace(
            model.source(role), spec=dataclasses.replace(model.spec(role), dtype="float32")
        )
        for role in ROLES
    }
    return Sources(model.name, sources["query"], sources["document"])


def _require_one_dtype(model: DualEncoder, roles: Sequence[Role], runtime: str, dtype: str) -> None:
    """Refuse a precision that would put aside another export: an encoder's manifest has one."""
    for role in roles:
        folder = model.source(role).checkpoint.folder
        for other in DTYPES:
            found = Artefact.find(folder, other)
            if other != runtime and found is not None and found.values.get("dtype") != dtype:
                raise CareError(
                    f"{folder}: its export for {other} is {found.values.get('dtype')}, which {runtime} in {dtype} "
                    "would put aside; export from the original into another folder"
                )


def _set_dtype(folder: Path, roles: Sequence[Role], dtype: str) -> None:
    manifest = read_json(folder / MANIFEST, "it was written just now")
    for role in roles:
        manifest[role]["spec"]["dtype"] = dtype
    write_json(folder / MANIFEST, manifest)


def _record_fingerprints(folder: Path) -> None:
    manifest = read_json(folder / MANIFEST, "it was written just now")
    for role in ROLES:
        manifest[role]["revision"] = Checkpoint(folder / manifest[role]["folder"]).fingerprint
    write_json(folder / MANIFEST, manifest)


def _judge(
    figures: dict[Role, Figures],
    limits: Limits,
    runtime: str,
    dtype: str,
    allow_batch_dependence: bool,
    data: str,
    output: Path,
) -> None:
    """Refuse what is beyond the limits, all of it in one line."""
    failures = []
    for role, found in figures.items():
        wrong = found.failures(limits)
        if not found.batch_change <= limits.batch(dtype) and not allow_batch_dependence:
            wrong.append(
                f"a vector changes by {found.batch_change:.1e} with its neighbours in a batch, "
                f"more than {limits.batch(dtype):g}"
            )
        if wrong:
            failures.append(f"{role} encoder: {', '.join(wrong)}")
    if failures:
        raise CareError(
            f"{runtime} {dtype} is too far from the original on {data}: {'; '.join(failures)}; "
            f"{output} is as it was (limits can be set, see --help)"
        )


def _record(
    place: Path, runtime: str, figures: dict[Role, Figures], limits: Limits, dtype: str, data: str
) -> None:
    found = Artefact.find(place, runtime)
    assert found is not None  # written above
    batch_limit = limits.batch(dtype)
    gate = {
        "data": data,
        "limits": dataclasses.asdict(limits) | {"batch_change": batch_limit},
        "figures": {role: one.to_dict() for role, one in figures.items()},
    }
    invariant = all(one.batch_change <= batch_limit for one in figures.values())
    write_json(found.folder / DESCRIPTION, found.values | {"batch_invariant": invariant, "gate": gate})


def _versions() -> dict[str, str]:
    versions = {"care_accel": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
