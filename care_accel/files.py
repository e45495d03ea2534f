"""JSON, JSON lines and whole folders: read with errors that name file and line, written whole or not at all."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import tempfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from care_accel.errors import CareError

log = logging.getLogger(__name__)

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def find_plain_or_gzip(file: Path) -> Path | None:
    """Return ``file`` or ``file`` + ``.gz``, whichever is there; None if neither is.

    Raises
    ------
    CareError
        Both are there.
    """
    packed = file.with_name(file.name + ".gz")
    if file.is_file() and packed.is_file():
        raise CareError(f"{file} is there with and without .gz; remove one of them")
    return next((f for f in (file, packed) if f.is_file()), None)


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield each line that is not blank, with its number from 1.

    Raises
    ------
    CareError
        The file cannot be read, or holds something that is no UTF-8; the line is named.
    """
    number = 0
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if raw.strip():
                    yield number, raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CareError(f"{file}, line {number}: is not UTF-8; convert the file (iconv -t UTF-8)") from None
    except (FileNotFoundError, IsADirectoryError):
        raise CareError(f"{file}: cannot be read: no such file") from None
    except (OSError, EOFError, zlib.error) as cause:
        raise CareError(f"{file}: cannot be read after line {number}: {cause}") from None


def read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row of a JSON lines file, with its line number from 1.

    Raises
    ------
    CareError
        A line holds no JSON object; file and line are named.
    """
    for number, row in read_json_values(file):
        if not isinstance(row, dict):
            raise CareError(f"{file}, line {number}: no JSON object but a {type(row).__name__}")
        yield number, row


def read_json_values(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the value of each line, with its number from 1.

    Raises
    ------
    CareError
        A line holds no JSON; file and line are named.
    """
    for number, line in read_lines(file):
        try:
            value = json.loads(line)
        except ValueError as cause:
            why = (
                f"{cause.msg} at character {cause.pos + 1}"
                if isinstance(cause, json.JSONDecodeError)
                else cause
            )
            raise CareError(f"{file}, line {number}: no JSON: {why}") from None
        yield number, value


def text_field(row: dict[str, Any], name: str, file: Path, line: int) -> str:
    """Return a field that must be a str."""
    value = row.get(name)
    if not isinstance(value, str):
        found = "is missing" if name not in row else f"is a {type(value).__name__}"
        raise CareError(f"{file}, line {line}: {name!r} {found}; it must be a text")
    return _whole_characters(value, file, line)


def text_list_field(row: dict[str, Any], name: str, file: Path, line: int) -> list[str]:
    """Return a field that must be a list of str."""
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise CareError(f"{file}, line {line}: {name!r} must be a list of texts")
    return [_whole_characters(v, file, line) for v in value]


def replace_lone_surrogates(text: str) -> tuple[str, int]:
    """Put U+FFFD for each half of a surrogate pair, which broken JSON and old files contain; return how many."""
    return _LONE_SURROGATE.subn("\ufffd", text)


def _whole_characters(text: str, file: Path, line: int) -> str:
    clean, replaced = replace_lone_surrogates(text)
    if replaced:
        log.warning("%s, line %d: %d lone surrogates were replaced by U+FFFD", file, line, replaced)
    return clean


def read_json(file: Path, why: str) -> dict[str, Any]:
    """Read a JSON object from a file, or say in one line what is wrong with it."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CareError(f"{file}: no such file; {why}") from None
    except (OSError, ValueError) as cause:
        raise CareError(f"{file}: cannot be read as JSON: {' '.join(str(cause).split())}") from None
    if not isinstance(values, dict):
        raise CareError(f"{file}: holds no JSON object")
    return values


def write_json(file: Path, values: Any, *, private: bool = False) -> None:
    """Write JSON as `write_text` does."""
    write_text(file, json.dumps(values, ensure_ascii=False, indent=2) + "\n", private=private)


def write_text(file: Path, text: str, *, private: bool = False) -> None:
    """Write UTF-8 under a temporary name and rename it, so that nobody ever reads half of it.

    Only its owner may read it if it is ``private``, whatever the file was before.

    Raises
    ------
    CareError
        It cannot be written.
    """
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        if private:  # no moment at which others may read it
            temporary.unlink(missing_ok=True)
            temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, file)
    except OSError as cause:
        with suppress(OSError):
            temporary.unlink()
        raise CareError(f"{file}: cannot be written: {cause.strerror}") from None


def make_folder(folder: Path, name: str) -> None:
    """Make a folder that results go to, if it is not there.

    Raises
    ------
    CareError
        It cannot be made or written; ``name`` is the option that named it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise CareError(f"{name} {folder}: cannot be made: {cause.strerror}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CareError(f"{name} {folder}: cannot be written to")


@contextmanager
def replaced_folder(
    folder: Path,
    manifest: str,
    parts: Collection[str] = (),
    *,
    old_manifests: Collection[str] = (),
    private: bool = True,
) -> Iterator[Path]:
    """Give a new folder to write into; it takes the place of ``folder`` once all is written.

    What was in that place stays whole if the writing is interrupted.

    Parameters
    ----------
    folder : Path
    manifest : str
        The file that tells that a folder is of this kind.
    parts : collection of str
        What else such a folder may hold.
    old_manifests : collection of str
        Names of the manifest in earlier releases.
    private : bool
        Whether only its owner may read it.

    Raises
    ------
    CareError
        Something else would be lost: ``folder`` is a file, or a folder without a manifest or with more in it.
    """
    folder = folder.resolve()  # a link stays one, and what it points to is replaced
    if folder.exists():
        names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {folder.name}
        manifests = {manifest, *old_manifests}
        if names and not names & manifests:
            raise CareError(f"{folder} exists and holds no {manifest}; choose another folder")
        if others := sorted(names - {*manifests, *parts}):
            raise CareError(
                f"{folder} holds {others[0]}, which does not belong to what is saved there; choose another folder"
            )
    make_folder(folder.parent, "the folder")
    try:
        beside = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-")
    except OSError as cause:
        raise CareError(
            f"{folder.parent}: nothing can be written here ({cause.strerror}); choose another folder"
        ) from None
    with beside as temporary:
        built, old = Path(temporary) / "new", Path(temporary) / "old"
        built.mkdir(mode=0o700 if private else 0o777)
        yield built
        try:
            if folder.exists():
                os.replace(folder, old)
            os.replace(built, folder)
        except BaseException:
            if old.exists() and not folder.exists():
                os.replace(old, folder)
            raise


def check_format(manifest: dict[str, Any], file: Path, *known: int) -> None:
    """Check that this release reads the format of a manifest.

    Parameters
    ----------
    manifest : dict
    file : Path
    known : int
        The formats that this release reads.

    Raises
    ------
    CareError
        The manifest's ``format`` is none of them.
    """
    if manifest.get("format") not in known:
        reads = " and ".join(map(str, known))
        raise CareError(f"{file}: format {manifest.get('format')!r} is unknown; this release reads {reads}")
