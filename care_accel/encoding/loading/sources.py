"""Where a dual encoder comes from: the embedded one, a folder, two folders, or a hub name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.router_format import read_router_format
from care_accel.encoding.spec import EncoderSpec, Role, preset
from care_accel.errors import CareError
from care_accel.files import check_format, read_json

MANIFEST = "care.json"
MANIFEST_FORMAT = 1
EMBEDDED = Path(__file__).parents[2] / "assets"
DEFAULT = "care-mini"

# The first is ours; the authors' release calls the second folder doc_encoder.
_FOLDERS: dict[Role, tuple[str, ...]] = {
    "query": ("query_encoder",),
    "document": ("document_encoder", "doc_encoder"),
}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


@dataclass(frozen=True)
class Source:
    """One encoder that has been found but not loaded.

    Attributes
    ----------
    checkpoint : Checkpoint
    spec : EncoderSpec
    recorded : str or None
        Fingerprint that the manifest holds for the checkpoint, checked when it is loaded.
    """

    checkpoint: Checkpoint
    spec: EncoderSpec
    recorded: str | None = None

    def __post_init__(self) -> None:
        hidden = self.checkpoint.hidden_size
        if self.spec.width > hidden:
            raise CareError(
                f"{self.checkpoint.network_folder}: width {self.spec.width} is more than the network's "
                f"hidden size {hidden}"
            )
        limit = self.checkpoint.max_tokens
        if limit is not None and self.spec.max_tokens > limit:
            raise CareError(
                f"{self.checkpoint.network_folder}: max_tokens {self.spec.max_tokens} is more than the {limit} "
                "positions of the network"
            )
        if self.spec.padding_side == "left" and not self.checkpoint.rotary:
            raise CareError(
                f"{self.checkpoint.network_folder}: padding on the left would move the positions of this network, "
                "which are absolute; use padding_side='right'"
            )


@dataclass(frozen=True)
class Sources:
    """The two encoders of a dual encoder, found but not loaded."""

    name: str
    query: Source
    document: Source

    def __post_init__(self) -> None:
        widths = self.query.spec.width, self.document.spec.width
        if widths[0] != widths[1]:
            raise CareError(
                f"{self.name}: the query encoder makes vectors of width {widths[0]}, the document encoder of "
                f"{widths[1]}; they must be equal (give width=...)"
            )


def find(
    name: str | Path | None,
    query: str | Path | None,
    document: str | Path | None,
    preset_name: str | None,
    revision: str | None,
    changes: Mapping[str, Any],
) -> Sources:
    """Find both encoders; see `DualEncoder.from_pretrained` for what each argument may be."""
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
        return _from_two(title, folders, preset_name, changes)
    folder = _folder(name if name is not None else DEFAULT, revision)
    title = Path(str(name or DEFAULT)).name or folder.resolve().name
    if (folder / MANIFEST).is_file():
        _no_preset(preset_name, folder / MANIFEST)
        return _from_manifest(folder, changes)
    if (folder / "modules.json").is_file():
        _no_preset(preset_name, folder / "modules.json")
        sources = _from_router(folder, changes)
        return Sources(title, sources["query"], sources["document"])
    found = {role: _first_folder(folder, names) for role, names in _FOLDERS.items()}
    if found["query"] and found["document"]:
        folders = {role: path for role, path in found.items() if path}
        sources = _from_preset(folders, preset_name or "care", changes)
        return Sources(title, sources["query"], sources["document"])
    raise CareError(
        f"{folder}: neither {MANIFEST} nor modules.json nor the folders query_encoder and document_encoder; "
        "for two separate folders give query= and document="
    )


def _from_two(
    title: str, folders: Mapping[Role, Path], preset_name: str | None, changes: Mapping[str, Any]
) -> Sources:
    """Let each folder say what its encoder is; a preset speaks for those that do not, or instead of them."""
    sources: dict[Role, Source] = {}
    for role, folder in folders.items():
        if (folder / MANIFEST).is_file():
            _no_preset(preset_name, folder / MANIFEST)
            both = _from_manifest(folder, changes)
            sources[role] = both.query if role == "query" else both.document
        elif preset_name is None and (folder / "modules.json").is_file():
            sources[role] = _from_router(folder, changes)[role]
    plain = {role: folder for role, folder in folders.items() if role not in sources}
    if plain:
        widths = [source.spec.width for source in sources.values()]
        sources |= _from_preset(plain, preset_name or "sentence-transformers", changes, widths)
    return Sources(title, sources["query"], sources["document"])


def _from_router(folder: Path, changes: Mapping[str, Any]) -> dict[Role, Source]:
    return {
        role: Source(Checkpoint(part.folder), _changed(part.spec(Checkpoint(part.folder)), changes))
        for role, part in read_router_format(folder).items()
    }


def _from_preset(
    folders: Mapping[Role, Path], preset_name: str, changes: Mapping[str, Any], widths: Sequence[int] = ()
) -> dict[Role, Source]:
    checkpoints = {role: open_checkpoint(folder) for role, folder in folders.items()}
    # Presets name a width that both networks must be able to give: the narrower one decides.
    widest = min([c.hidden_size for c in checkpoints.values()] + [*widths])
    sources: dict[Role, Source] = {}
    for role, checkpoint in checkpoints.items():
        spec = preset(preset_name, role, hidden_size=widest, causal=checkpoint.causal)
        fitting = min(spec.max_tokens, checkpoint.max_tokens or spec.max_tokens)
        sources[role] = Source(checkpoint, _changed(spec, {"max_tokens": fitting}, changes))
    return sources


def _from_manifest(folder: Path, changes: Mapping[str, Any]) -> Sources:
    file = folder / MANIFEST
    manifest = read_json(file, "")
    check_format(manifest, file, MANIFEST_FORMAT)
    sources: dict[str, Source] = {}
    for role in _FOLDERS:
        entry = manifest.get(role)
        if not isinstance(entry, dict) or not isinstance(entry.get("folder"), str) or "spec" not in entry:
            raise CareError(f"{file}: {role!r} must hold a folder and a spec")
        place = (folder / entry["folder"]).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise CareError(f"{file}: the folder of {role!r} lies outside the model's own")
        spec = EncoderSpec.from_dict(entry["spec"], f"{file}, {role}")
        sources[role] = Source(open_checkpoint(place), _changed(spec, changes), entry.get("revision"))
    return Sources(str(manifest.get("name") or folder.name), sources["query"], sources["document"])


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open an encoder's folder; a LoRA adapter is followed to the base that it names."""
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or (folder / "config.json").is_file():
        return Checkpoint(folder)
    base = read_json(adapter, "").get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise CareError(f"{adapter}: base_model_name_or_path is empty; it must name the base network")
    beside = folder / base
    return Checkpoint(folder, base=beside if beside.is_dir() else _folder(base, None))


def _folder(name: str | Path, revision: str | None) -> Path:
    """Return a local folder for the embedded default, a path, or a hub name (downloaded, pinned)."""
    if name == DEFAULT:  # a folder of that name is ./care-mini
        return EMBEDDED / DEFAULT
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path) or not _HUB_NAME.fullmatch(name) or name.startswith("."):
        raise CareError(
            f"{name}: no such folder, and no hub name (owner/name); the embedded model is {DEFAULT}"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_FILES)))
    except Exception as cause:  # connection, authorisation, name and cache errors of several libraries
        reason = " ".join(str(cause).split())[:200]
        raise CareError(
            f"{name}: no such folder, and the hub gave no model of that name ({reason})"
        ) from None


def _first_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _no_preset(preset_name: str | None, file: Path) -> None:
    if preset_name is not None:
        raise CareError(f"{file} already says what the encoders are; leave preset={preset_name!r} out")


def _changed(spec: EncoderSpec, *changes: Mapping[str, Any]) -> EncoderSpec:
    for some in changes:
        spec = dataclasses.replace(spec, **{k: v for k, v in some.items() if v is not None})
    return spec
