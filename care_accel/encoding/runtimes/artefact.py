"""An export in an encoder's folder: ``runtimes/<runtime>/``, described by ``export.json``."""

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
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Artefact:
    """One exported form of an encoder.

    Attributes
    ----------
    folder : Path
    values : dict
        ``export.json``: ``runtime``, ``dtype``, ``fingerprint`` of the original weights, ``spec``, ``files`` with
        their checksums, ``versions``, ``batch_invariant``, ``gate``.
    """

    folder: Path
    values: dict[str, Any]

    @classmethod
    def find(cls, encoder_folder: Path, runtime: str) -> Artefact | None:
        """Open an encoder's export for a runtime; None if there is none.

        Raises
        ------
        CareError
            ``export.json`` is corrupt or has an unknown format.
        """
        folder = encoder_folder / RUNTIMES / runtime
        file = folder / DESCRIPTION
        if not file.is_file():
            return None
        values = read_json(file, "every export has one")
        check_format(values, file, FORMAT)
        return cls(folder, values)

    def mismatch(self, fingerprint: str, spec: EncoderSpec) -> str | None:
        """Return why this export does not match these weights and this spec; None if it does."""
        if self.values.get("fingerprint") != fingerprint:
            return "its export was made from other weights"
        exported = self.values.get("spec") or {}
        found = {name: value for name, value in exported.items() if name != "max_tokens"}
        expected = spec.compiled
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                return f"its export has {name} {found.get(name)!r}, not {expected.get(name)!r}"
        if self.values.get("dtype") != spec.dtype:
            return f"its export has dtype {self.values.get('dtype')}, not {spec.dtype}"
        if int(exported.get("max_tokens", 0)) < spec.max_tokens:
            return f"its export has max_tokens {exported.get('max_tokens')}, not {spec.max_tokens}"
        if missing := [name for name in self.values.get("files") or () if not (self.folder / name).is_file()]:
            return f"its export lacks the file {missing[0]}"
        return None

    def checked(self, name: str) -> Path:
        """Verify the checksums of all files of the export, and return the path of one.

        Raises
        ------
        CareError
            A file is missing or was changed; the message names it.
        """
        files = self.values.get("files")
        if not isinstance(files, dict) or name not in files:
            raise CareError(f"{self.folder / DESCRIPTION}: does not list {name}; export the model again")
        for other, digest in files.items():
            if not (self.folder / other).is_file() or file_digest(self.folder / other) != digest:
                raise CareError(
                    f"{self.folder / other}: missing or changed since the export; export the model again"
                )
        return self.folder / name


def file_digest(file: Path) -> str:
    """Return ``sha256:`` and the hash of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
