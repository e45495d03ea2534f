"""Exports a dual encoder for a faster runtime; written only if it passes the accuracy gate."""

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
from care_accel.export.gate import Gate, Limits, Metrics
from care_accel.export.graph import write_graph
from care_accel.export.texts import DevSet
from care_accel.export.vocabulary import prune_vocabulary
from care_accel.files import read_json, write_json
from care_accel.folders import replaced_folder
from care_accel.version import __version__

# Supported dtypes of each runtime, the default first. PyTorch needs no artefact; it serves --keep-vocab only.
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
) -> dict[Role, Metrics]:
    """Write a dual encoder with an artefact for a faster runtime, if it passes the accuracy gate.

    Parameters
    ----------
    model : DualEncoder
        ``output`` may be its folder; exports for other runtimes are kept.
    output : str or Path
        Folder of the exported dual encoder, replaced atomically after the gate has passed.
    runtime : {"onnx", "native", "tensorrt", "pytorch"}
    dev : DevSet
        Data set for rankings and nDCG@10.
    roles : sequence of {"query", "document"}
        Roles to export; a symmetric model is always exported for both.
    dtype : str, optional
        By default float32 for ``onnx``, int8 for ``native``, float16 for ``tensorrt``.
    texts : sequence of str, optional
        Texts for the cosines, instead of those of ``dev``.
    limits : Limits, optional
    keep : sequence of str, optional
        Prune the vocabulary to the tokens of these texts.
    allow_batch_dependence : bool
        Write the export even if embeddings depend on the other texts in the batch; ``runtime="auto"`` never selects
        such an export.
    progress : callable, optional
        Called with a line for each long step.

    Returns
    -------
    dict of role to Metrics

    Raises
    ------
    CareError
        A limit is exceeded (the message gives the values), or something is missing. ``output`` is unchanged then.
    """
    report = progress or (lambda _: None)
    limits = limits or Limits()
    dtype = _checked_dtype(runtime, dtype)
    if runtime == "tensorrt":
        import_tensorrt()  # fail before writing anything
    roles = ROLES if model.symmetric else tuple(role for role in ROLES if role in roles)
    _require_one_dtype(model, roles, runtime, dtype)
    # Check the model before the steps that take minutes.
    for role in roles:
        source = model.source(role)
        if keep is not None:
            source.checkpoint.require_full_vocabulary("use --keep-vocab with")
        if runtime == "native":
            spec = dataclasses.replace(source.spec, dtype=dtype)  # type: ignore[arg-type]  # checked above
            choose(dataclasses.replace(source, spec=spec), runtime)
    original = DualEncoder(_in_float32(model), "pytorch")
    output = Path(output)
    metrics: dict[Role, Metrics] = {}
    with replaced_folder(output, MANIFEST, [f"{role}_encoder" for role in ROLES], private=False) as built:
        model.save_pretrained(built, name=output.resolve().name)
        _set_dtype(built, roles, dtype)
        saved = DualEncoder.from_pretrained(built)
        folders = {role: saved.source(role).checkpoint.folder for role in roles}
        if keep is not None:
            for folder in sorted(set(folders.values())):
                report(f"{folder.name}: pruning the vocabulary to the tokens of {len(keep)} texts")
                pruned = prune_vocabulary(
                    folder, [saved.spec(r) for r in roles if folders[r] == folder], keep
                )
                report(f"{folder.name}: {pruned.kept} of {len(pruned.rows)} tokens kept")
            _record_fingerprints(built)
        writers = {role: _ArtefactWriter(folders[role], saved.spec(role), runtime) for role in roles}
        for folder in sorted(set(folders.values())):
            report(f"{folder.name}: exporting for {runtime}, {dtype}")
            next(w for w in writers.values() if w.encoder_folder == folder).write()
        exported = DualEncoder.from_pretrained(built, runtime=runtime)  # type: ignore[arg-type]
        gate = Gate(original, dev, texts)
        for role in roles:
            report(f"{role}: comparing with the float32 original on {dev.name}")
            metrics[role] = gate.measure(exported.encoder(role), role)
        _check_limits(metrics, limits, runtime, dtype, allow_batch_dependence, dev.name, output)
        for folder in set(folders.values()):
            own = {r: metrics[r] for r in roles if folders[r] == folder}
            _record_gate(folder, runtime, own, limits, dtype, dev.name)
    return metrics


@dataclass(frozen=True)
class _ArtefactWriter:
    """Writes the artefact of one encoder's folder."""

    encoder_folder: Path
    spec: EncoderSpec
    runtime: str

    def write(self) -> None:
        folder = self.encoder_folder / artefact.RUNTIMES / self.runtime
        timing_cache = folder / TIMING_CACHE
        timings = timing_cache.read_bytes() if timing_cache.is_file() else b""
        if folder.exists():
            for file in folder.iterdir():
                file.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = Checkpoint(self.encoder_folder)
        values: dict[str, Any] = {
            "format": artefact.FORMAT,
            "runtime": self.runtime,
            "dtype": self.spec.dtype,
            "fingerprint": checkpoint.fingerprint,
            "spec": self.spec.compiled | {"max_tokens": self.spec.max_tokens},
            "versions": _versions(),
        }
        if self.runtime in ("onnx", "tensorrt"):
            network, dense = checkpoint.load_network("float32"), checkpoint.load_dense(self.spec)
            write_graph(network, self.spec, folder / GRAPH, dense)
        if self.runtime == "tensorrt":
            buckets = buckets_for(self.spec.max_tokens)
            half = self.spec.dtype == "float16"
            cache = build_engine(folder / GRAPH, folder / ENGINE, buckets, half=half, timings=timings)
            for file in folder.glob(f"{GRAPH}*"):
                file.unlink()  # the engine contains the weights
            (folder / TIMING_CACHE).write_bytes(cache)
            values |= {"buckets": buckets, "versions": values["versions"] | stamp(import_tensorrt())}
        values["files"] = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
        write_json(folder / DESCRIPTION, values)


def _checked_dtype(runtime: str, dtype: str | None) -> str:
    if runtime not in DTYPES:
        raise CareError(f"cannot export for runtime {runtime!r}; choose one of {', '.join(DTYPES)}")
    dtype = dtype or DTYPES[runtime][0]
    if dtype not in DTYPES[runtime]:
        raise CareError(f"{runtime} supports dtype {' or '.join(DTYPES[runtime])}, not {dtype}")
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
    """Refuse a dtype that differs from other exports: the manifest has one dtype per encoder."""
    for role in roles:
        folder = model.source(role).checkpoint.folder
        for other in DTYPES:
            existing = Artefact.find(folder, other)
            if other != runtime and existing is not None and existing.values.get("dtype") != dtype:
                raise CareError(
                    f"{folder}: its export for {other} has dtype {existing.values.get('dtype')}; exporting {runtime} in "
                    f"{dtype} would disable it; export the original to another folder"
                )


def _set_dtype(folder: Path, roles: Sequence[Role], dtype: str) -> None:
    manifest = read_json(folder / MANIFEST, "it was written in this export")
    for role in roles:
        manifest[role]["spec"]["dtype"] = dtype
    write_json(folder / MANIFEST, manifest)


def _record_fingerprints(folder: Path) -> None:
    manifest = read_json(folder / MANIFEST, "it was written in this export")
    for role in ROLES:
        manifest[role]["revision"] = Checkpoint(folder / manifest[role]["folder"]).fingerprint
    write_json(folder / MANIFEST, manifest)


def _check_limits(
    metrics: dict[Role, Metrics],
    limits: Limits,
    runtime: str,
    dtype: str,
    allow_batch_dependence: bool,
    data: str,
    output: Path,
) -> None:
    """Raise one error with all exceeded limits."""
    failures = []
    for role, one in metrics.items():
        exceeded = one.failures(limits)
        if not one.batch_change <= limits.batch(dtype) and not allow_batch_dependence:
            exceeded.append(
                f"vectors change by {one.batch_change:.1e} with the other texts in the batch, more than "
                f"{limits.batch(dtype):g}"
            )
        if exceeded:
            failures.append(f"{role} encoder: {', '.join(exceeded)}")
    if failures:
        raise CareError(
            f"{runtime} {dtype} fails the accuracy gate on {data}: {'; '.join(failures)}; {output} is unchanged (see "
            "--help for the limits)"
        )


def _record_gate(
    folder: Path, runtime: str, metrics: dict[Role, Metrics], limits: Limits, dtype: str, data: str
) -> None:
    written = Artefact.find(folder, runtime)
    assert written is not None
    batch_limit = limits.batch(dtype)
    gate = {
        "data": data,
        "limits": dataclasses.asdict(limits) | {"batch_change": batch_limit},
        "figures": {role: one.to_dict() for role, one in metrics.items()},
    }
    invariant = all(one.batch_change <= batch_limit for one in metrics.values())
    write_json(written.folder / DESCRIPTION, written.values | {"batch_invariant": invariant, "gate": gate})


def _versions() -> dict[str, str]:
    versions = {"care_accel": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
