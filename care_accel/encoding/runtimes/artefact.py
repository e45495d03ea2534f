"""What an export leaves beside an encoder's weights: ``runtimes/<runtime>/``, described by ``export.json``."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from care_accel.encoding.spec import EncoderSpec
from care_accel.errors import CareError
from care_accel.files import check_format, read_json

DESCRIPTION = "export.json"
FORMAT = 1
RUNTIMES = "runtimes"
# What is compiled into a graph; prompts and lengths are not.
_COMPILED = ("pooling", "order", "width")
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Artefact:
    """One exported form of an encoder.

    Attributes
    ----------
    folder : Path
    values : dict
        ``export.json``: ``runtime``, ``dtype``, ``fingerprint`` of the weights it was made from, ``spec``,
        ``files`` with their checksums, ``versions``, ``batch_invariant``, ``gate``.
    """

    folder: Path
    values: dict[str, Any]

    @classmethod
    def find(cls, encoder_folder: Path, runtime: str) -> Artefact | None:
        """Open an encoder's export for a runtime; None if it has none.

        Raises
        ------
        CareError
            ``export.json`` is broken or of another release.
        """
        folder = encoder_folder / RUNTIMES / runtime
        file = folder / DESCRIPTION
        if not file.is_file():
            return None
        values = read_json(file, "an export has one")
        check_format(values, file, FORMAT)
        return cls(folder, values)

    def mismatch(self, fingerprint: str, spec: EncoderSpec) -> str | None:
        """Say why this export is not of these weights and this spec; None if it is."""
        if self.values.get("fingerprint") != fingerprint:
            return "its export was made from other weights"
        exported = self.values.get("spec") or {}
        for name in _COMPILED:
            if exported.get(name) != (wanted := getattr(spec, name)):
                return f"its export has {name} {exported.get(name)!r}, not {wanted!r}"
        if self.values.get("dtype") != spec.dtype:
            return f"its export is {self.values.get('dtype')}, not {spec.dtype}"
        if int(exported.get("max_tokens", 0)) < spec.max_tokens:
            return f"its export takes {exported.get('max_tokens')} tokens, not {spec.max_tokens}"
        if absent := [name for name in self.values.get("files") or () if not (self.folder / name).is_file()]:
            return f"of its export the file {absent[0]} is not there"
        return None

    def checked(self, name: str) -> Path:
        """Return one of the export's files once all of them have the checksums that were recorded.

        Raises
        ------
        CareError
            A file is missing or was changed; it is named.
        """
        files = self.values.get("files")
        if not isinstance(files, dict) or name not in files:
            raise CareError(f"{self.folder / DESCRIPTION}: names no {name}; export the model anew")
        for other, digest in files.items():
            if not (self.folder / other).is_file() or file_digest(self.folder / other) != digest:
                raise CareError(
                    f"{self.folder / other}: not the file that was exported; export the model anew"
                )
        return self.folder / name


def file_digest(file: Path) -> str:
    """Return ``sha256:`` and the hash of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
