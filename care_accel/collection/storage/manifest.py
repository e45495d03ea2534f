"""What a collection records of itself: the model of its vectors and how documents are cut."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from care_accel.encoding import DualEncoder
from care_accel.encoding.base import BaseDualEncoder
from care_accel.errors import CareError
from care_accel.fields import build

FORMAT = 1
# The key of the manifest in the metadata of the table's schema: created with the table, in one commit.
KEY = b"care_accel.collection"


@dataclass(frozen=True)
class Manifest:
    """The description of a collection; it never changes.

    Attributes
    ----------
    uuid : str
        Tells a collection from another one that takes its place later.
    model : str
        Name of the dual encoder.
    revision : str
        `DualEncoder.revision` of the document encoder that made the vectors: its files, and its prompts, pooling and
        other settings that affect them.
    width : int
        Values of a vector.
    order : str
        `EncoderSpec.order` of the document encoder.
    prompts : dict
        `EncoderSpec.prompts` of the document encoder, for readers; ``revision`` covers them.
    load : dict
        Arguments of `DualEncoder.from_pretrained` that load the model; empty where they are not known.
    chunk_tokens : int or None
        Most tokens of a chunk; None if a document is one chunk.
    chunk_overlap : int
        Most tokens that two neighbouring chunks share.
    lexical : bool
        Whether a lexical index (BM25) is kept.
    created : str
        Time in UTC, ISO 8601.
    """

    uuid: str
    model: str
    revision: str
    width: int
    order: str
    created: str
    prompts: dict[str, str] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    chunk_tokens: int | None = None
    chunk_overlap: int = 0
    lexical: bool = False
    format: int = FORMAT

    def write(self) -> dict[bytes, bytes]:
        """Return the manifest as metadata of a schema."""
        return {KEY: json.dumps(dataclasses.asdict(self), ensure_ascii=False).encode()}


def read(metadata: Mapping[bytes, bytes] | None, uri: str) -> Manifest:
    """Return the manifest in the metadata of a schema.

    Raises
    ------
    CareError
        There is none, or one of a newer release.
    """
    raw = (metadata or {}).get(KEY)
    if raw is None:
        raise CareError(f"{uri}: this Lance table is not a collection; create one with Collection.create")
    values = json.loads(raw)
    if values.get("format") != FORMAT:
        raise CareError(
            f"{uri}: format {values.get('format')!r} of the collection is unknown; this release reads {FORMAT}"
        )
    return build(Manifest, values, uri)


def load_arguments(model: BaseDualEncoder | str | Path) -> dict[str, Any]:
    """Return the arguments that load a model again, folders as absolute paths; empty where they are not known."""
    if isinstance(model, str | Path):
        return {"model": _absolute(model)}
    known = getattr(model, "loaded_with", None) or {}
    return {name: _absolute(value) for name, value in known.items()}


def _absolute(value: Any) -> Any:
    if isinstance(value, str | Path) and Path(value).is_dir():
        return str(Path(value).resolve())
    return str(value) if isinstance(value, Path) else value


def open_model(model: BaseDualEncoder | str | Path) -> BaseDualEncoder:
    """Return a dual encoder: as given, or loaded from a folder or by name."""
    return DualEncoder.from_pretrained(model) if isinstance(model, str | Path) else model


def model_of(manifest: Manifest, model: BaseDualEncoder | str | Path | None, uri: str) -> BaseDualEncoder:
    """Return the model of a collection, or the given one if it makes the same vectors.

    Raises
    ------
    CareError
        It cannot be found, or is another one; the message has both revisions.
    """
    if model is None:
        if not manifest.load:
            raise CareError(
                f"{uri}: the folder of its model {manifest.model} is not recorded; give it as model= (--model)"
            )
        try:
            found: BaseDualEncoder = DualEncoder.from_pretrained(**manifest.load)
        except CareError as cause:
            raise CareError(
                f"{uri}: its model {manifest.model} cannot be loaded: {cause}; give it as model= (--model)"
            ) from None
    else:
        found = open_model(model)
    if found.width != manifest.width:
        raise CareError(
            f"{uri}: its vectors have width {manifest.width}, those of {found.name} {found.width}; load the model that made "
            "the collection, with the same width"
        )
    revision = found.revision("document")
    if revision != manifest.revision:
        raise CareError(
            f"{uri}: its vectors were made by document encoder {manifest.revision} of {manifest.model}, but {found.name} has "
            f"{revision}; give the model that made it, or index the documents again into another collection"
        )
    return found
