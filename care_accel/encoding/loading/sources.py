"""Locates the encoders of a dual encoder: the embedded default, a folder, two folders, or a hub name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from care_accel.encoding.loading.adapter import CONFIG as ADAPTER
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.dense import check_shapes
from care_accel.encoding.loading.router_format import read_router_format
from care_accel.encoding.spec import EncoderSpec, Role, preset
from care_accel.errors import CareError
from care_accel.files import check_format, read_json

MANIFEST = "care.json"
MANIFEST_FORMAT = 1
EMBEDDED = Path(__file__).parents[2] / "assets"
DEFAULT = "care-mini"

# Accepted names; the authors' release uses doc_encoder.
_FOLDERS: dict[Role, tuple[str, ...]] = {
    "query": ("query_encoder",),
    "document": ("document_encoder", "doc_encoder"),
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


@dataclass(frozen=True)
class Source:
    """One encoder, located but not loaded.

    Attributes
    ----------
    checkpoint : Checkpoint
    spec : EncoderSpec
    recorded : str or None
        Fingerprint of the checkpoint in the manifest or in a pickle, verified on loading.
    pickled : bool
        Whether a pickle recorded it, for the message.
    """

    checkpoint: Checkpoint
    spec: EncoderSpec
    recorded: str | None = None
    pickled: bool = False

    def __post_init__(self) -> None:
        hidden = self.checkpoint.hidden_size
        check_shapes(self.checkpoint.dense_files, self.spec.dense, hidden, self.checkpoint.folder)
        if self.spec.width > self.full_width:  # a spec with dense layers checks its width itself
            raise CareError(
                f"{self.checkpoint.network_folder}: width {self.spec.width} exceeds the network's hidden size "
                f"{hidden}; use a smaller width"
            )
        limit = self.checkpoint.max_tokens
        if limit is not None and self.spec.max_tokens > limit:
            raise CareError(
                f"{self.checkpoint.network_folder}: max_tokens {self.spec.max_tokens} exceeds the network's maximum of "
                f"{limit} positions; use a smaller max_tokens"
            )
        if self.spec.padding_side == "left" and not self.checkpoint.rotary:
            raise CareError(
                f"{self.checkpoint.network_folder}: left padding would shift the absolute positions of this network; "
                "use padding_side='right'"
            )

    @property
    def full_width(self) -> int:
        """Width of a vector before slicing: of the last dense layer, or of the hidden states."""
        return self.spec.dense[-1].width if self.spec.dense else self.checkpoint.hidden_size

    def verify(self) -> None:
        """Compare the files with the recorded fingerprint, if there is one.

        Raises
        ------
        CareError
            They differ.
        """
        if self.recorded is None or self.recorded == (found := self.checkpoint.fingerprint):
            return
        hashes = f"recorded {str(self.recorded)[:19]}..., found {found[:19]}..."
        if self.pickled:
            raise CareError(
                f"{self.checkpoint.folder}: the files changed since the model was pickled ({hashes}); restore them, or "
                "load and pickle the model again"
            )
        raise CareError(
            f"{self.checkpoint.folder}: the files do not match {MANIFEST} ({hashes}); restore them, or save the model again"
        )


@dataclass(frozen=True)
class Sources:
    """The two encoders of a dual encoder, located but not loaded."""

    name: str
    query: Source
    document: Source

    def __post_init__(self) -> None:
        widths = self.query.spec.width, self.document.spec.width
        if widths[0] != widths[1]:
            raise CareError(
                f"{self.name}: the query encoder has width {widths[0]}, the document encoder {widths[1]}; set width=... "
                "to use the same for both"
            )


def find_sources(
    name: str | Path | None,
    query: str | Path | None,
    document: str | Path | None,
    preset_name: str | None,
    revision: str | None,
    changes: Mapping[str, Any],
    base: str | Path | None = None,
) -> Sources:
    """Locate both encoders; see `DualEncoder.from_pretrained` for the arguments."""
    sources = _find_sources(name, query, document, preset_name, revision, changes, base)
    if base is not None and not (sources.query.checkpoint.base or sources.document.checkpoint.base):
        raise CareError(
            f"{sources.name}: base={str(base)!r} was given, but neither encoder is an adapter; remove base="
        )
    return sources


def _find_sources(
    name: str | Path | None,
    query: str | Path | None,
    document: str | Path | None,
    preset_name: str | None,
    revision: str | None,
    changes: Mapping[str, Any],
    base: str | Path | None,
) -> Sources:
    if query is not None or document is not None:
        if name is not None:
            raise CareError("give one model or query= and document=, not both")
        if query is None or document is None:
            raise CareError("give both query= and document= (the same folder twice for a symmetric model)")
        folders: dict[Role, Path] = {
            "query": _folder(query, revision),
            "document": _folder(document, revision),
        }
        title = f"{folders['query'].name}+{folders['document'].name}"
        return _from_two(title, folders, preset_name, changes, base)
    folder = _folder(name if name is not None else DEFAULT, revision)
    title = Path(str(name or DEFAULT)).name or folder.resolve().name
    if (folder / MANIFEST).is_file():
        _refuse_preset(preset_name, folder / MANIFEST)
        return _from_manifest(folder, changes)
    if (folder / "modules.json").is_file():
        _refuse_preset(preset_name, folder / "modules.json")
        sources = _from_router(folder, changes, base)
        return Sources(title, sources["query"], sources["document"])
    found = {role: _first_folder(folder, names) for role, names in _FOLDERS.items()}
    if found["query"] and found["document"]:
        folders = {role: path for role, path in found.items() if path}
        sources = _from_preset(folders, preset_name or "care", changes, base=base)
        return Sources(title, sources["query"], sources["document"])
    raise CareError(
        f"{folder}: no {MANIFEST}, no modules.json, and no folders query_encoder and document_encoder; "
        "for two separate folders use query= and document="
    )


def _from_two(
    title: str,
    folders: Mapping[Role, Path],
    preset_name: str | None,
    changes: Mapping[str, Any],
    base: str | Path | None,
) -> Sources:
    """Read each folder's own configuration; use the preset for folders without one, or instead of modules.json."""
    sources: dict[Role, Source] = {}
    for role, folder in folders.items():
        if (folder / MANIFEST).is_file():
            _refuse_preset(preset_name, folder / MANIFEST)
            both = _from_manifest(folder, changes)
            sources[role] = both.query if role == "query" else both.document
        elif preset_name is None and (folder / "modules.json").is_file():
            sources[role] = _from_router(folder, changes, base)[role]
    unconfigured = {role: folder for role, folder in folders.items() if role not in sources}
    if unconfigured:
        widths = [source.spec.width for source in sources.values()]
        sources |= _from_preset(unconfigured, preset_name or "sentence-transformers", changes, widths, base)
    return Sources(title, sources["query"], sources["document"])


def _from_router(
    folder: Path, changes: Mapping[str, Any], base: str | Path | None = None
) -> dict[Role, Source]:
    sources: dict[Role, Source] = {}
    for role, part in read_router_format(folder).items():
        checkpoint = dataclasses.replace(open_checkpoint(part.folder, base), dense=part.dense_files)
        sources[role] = Source(checkpoint, _override(part.spec(checkpoint), changes))
    return sources


def _from_preset(
    folders: Mapping[Role, Path],
    preset_name: str,
    changes: Mapping[str, Any],
    widths: Sequence[int] = (),
    base: str | Path | None = None,
) -> dict[Role, Source]:
    checkpoints = {role: open_checkpoint(folder, base) for role, folder in folders.items()}
    # Both encoders need the same width, so the smaller hidden size decides.
    max_width = min([c.hidden_size for c in checkpoints.values()] + [*widths])
    sources: dict[Role, Source] = {}
    for role, checkpoint in checkpoints.items():
        spec = preset(preset_name, role, hidden_size=max_width, causal=checkpoint.causal)
        max_tokens = min(spec.max_tokens, checkpoint.max_tokens or spec.max_tokens)
        sources[role] = Source(checkpoint, _override(spec, {"max_tokens": max_tokens}, changes))
    return sources


def _from_manifest(folder: Path, changes: Mapping[str, Any]) -> Sources:
    file = folder / MANIFEST
    manifest = read_json(file, "")
    check_format(manifest, file, MANIFEST_FORMAT)
    sources: dict[str, Source] = {}
    for role in _FOLDERS:
        entry = manifest.get(role)
        if not isinstance(entry, dict) or not isinstance(entry.get("folder"), str) or "spec" not in entry:
            raise CareError(f"{file}: {role!r} must have 'folder' and 'spec'; save the model again")
        path = (folder / entry["folder"]).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise CareError(f"{file}: the folder of {role!r} is outside the model's folder; move it inside")
        spec = EncoderSpec.from_dict(entry["spec"], f"{file}, {role}")
        sources[role] = Source(open_checkpoint(path), _override(spec, changes), entry.get("revision"))
    return Sources(str(manifest.get("name") or folder.name), sources["query"], sources["document"])


def open_checkpoint(folder: Path, base: str | Path | None = None) -> Checkpoint:
    """Open an encoder's folder; for a LoRA adapter, find its base model too: ``base``, or the one that it names."""
    adapter = folder / ADAPTER
    if not adapter.is_file() or (folder / "config.json").is_file():
        return Checkpoint(folder)
    if base is not None:
        return Checkpoint(folder, base=_folder(base, None))
    values = read_json(adapter, "")
    named = values.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CareError(f"{adapter}: names no base model; name its folder with base=...")
    local = folder / named
    if local.is_dir():
        return Checkpoint(folder, base=local)
    try:
        return Checkpoint(folder, base=_folder(named, values.get("revision")))
    except CareError as problem:
        raise CareError(
            f"{adapter}: its base model is not there; if it moved, name its folder with base=... ({problem})"
        ) from None


def _folder(name: str | Path, revision: str | None) -> Path:
    """Return the local folder of the embedded default, a path, or a hub name (downloaded at its revision)."""
    if name == DEFAULT:  # a folder of that name is ./care-mini
        return EMBEDDED / DEFAULT
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path) or not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise CareError(
            f"{name}: no such folder, and not a hub name (owner/name); the embedded model is {DEFAULT}"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
    except Exception as cause:  # connection, authorisation, name and cache errors of several libraries
        reason = " ".join(str(cause).split())[:200]
        raise CareError(
            f"{name}: no such folder, and the download from the hub failed ({reason}); where the hub is out of reach set "
            "HF_ENDPOINT to a mirror, or give a downloaded folder"
        ) from None


def _first_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _refuse_preset(preset_name: str | None, file: Path) -> None:
    if preset_name is not None:
        raise CareError(f"{file} already configures the encoders; remove preset={preset_name!r}")


def _override(spec: EncoderSpec, *changes: Mapping[str, Any]) -> EncoderSpec:
    for values in changes:
        spec = dataclasses.replace(spec, **{k: v for k, v in values.items() if v is not None})
    return spec
