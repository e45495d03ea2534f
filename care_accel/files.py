"""Reads JSON and JSON lines with errors that give file and line; writes files atomically."""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

from care_accel.errors import CareError, not_written

log = logging.getLogger(__name__)

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def find_plain_or_gzip(file: Path) -> Path | None:
    """Return ``file`` or ``file`` + ``.gz``, whichever exists; None if neither does.

    Raises
    ------
    CareError
        Both exist.
    """
    gzipped = file.with_name(file.name + ".gz")
    if file.is_file() and gzipped.is_file():
        raise CareError(f"{file} exists with and without .gz; remove one of them")
    return next((f for f in (file, gzipped) if f.is_file()), None)


def _open(file: Path) -> IO[bytes]:
    if file.suffix == ".gz":
        return cast(IO[bytes], gzip.open(file, "rb"))
    if file.suffix == ".zst":
        try:
            import pyarrow as pa
        except ModuleNotFoundError:
            raise CareError(f"{file}: zstd needs the package pyarrow: pip install pyarrow") from None
        # The buffer finds the lines: Arrow's own stream has no readline.
        return cast(IO[bytes], io.BufferedReader(cast(Any, pa.input_stream(str(file), compression="zstd"))))
    return file.open("rb")


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Yield the non-blank lines of a file, plain, gzip (``.gz``) or zstd (``.zst``), with their line numbers, from 1.

    Raises
    ------
    CareError
        The file cannot be read or is not UTF-8; the message gives the line.
    """
    number = 0
    try:
        with _open(file) as stream:
            for number, raw in enumerate(stream, start=1):
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if raw.strip():
                    yield number, raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CareError(f"{file}, line {number}: is not UTF-8; convert the file (iconv -t UTF-8)") from None
    except FileNotFoundError:
        raise CareError(f"{file}: cannot be read: no such file") from None
    except IsADirectoryError:
        raise CareError(f"{file}: cannot be read: it is a folder; give a file") from None
    except (OSError, EOFError, zlib.error) as cause:
        raise CareError(f"{file}: cannot be read after line {number}: {cause}") from None


def read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSON lines file with their line numbers, from 1.

    Raises
    ------
    CareError
        A line is not a JSON object; the message gives file and line.
    """
    for number, row in read_json_values(file):
        if not isinstance(row, dict):
            raise CareError(f"{file}, line {number}: expected a JSON object, not a {type(row).__name__}")
        yield number, row


def read_json_values(file: Path) -> Iterator[tuple[int, Any]]:
    """Yield the values of a JSON lines file with their line numbers, from 1.

    Raises
    ------
    CareError
        A line is not JSON; the message gives file and line.
    """
    for number, line in read_lines(file):
        try:
            value = parse_json(line)
        except ValueError as cause:
            raise CareError(f"{file}, line {number}: {cause}") from None
        yield number, value


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises
    ------
    ValueError
        It is not JSON; the message says why and where in the text, without the text.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as cause:
        raise ValueError(f"not JSON: {cause.msg.removesuffix(' at')} at character {cause.pos + 1}") from None
    except (ValueError, RecursionError) as cause:  # a number with thousands of digits; brackets in brackets
        raise ValueError(f"not JSON: {cause}") from None


def text_field(row: dict[str, Any], name: str, file: Path, line: int) -> str:
    """Return a field that must be a str."""
    value = row.get(name)
    if not isinstance(value, str):
        problem = "is missing" if name not in row else f"is a {type(value).__name__}"
        raise CareError(f"{file}, line {line}: {name!r} {problem}; it must be a string")
    return _without_surrogates(value, file, line)


def text_list_field(row: dict[str, Any], name: str, file: Path, line: int) -> list[str]:
    """Return a field that must be a list of str."""
    value = row.get(name)
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise CareError(f"{file}, line {line}: {name!r} must be a list of strings")
    return [_without_surrogates(v, file, line) for v in value]


def replace_lone_surrogates(text: str) -> tuple[str, int]:
    """Replace lone surrogates, which occur in broken JSON and old files, by U+FFFD; return the text and their number."""
    return _LONE_SURROGATE.subn("\ufffd", text)


def _without_surrogates(text: str, file: Path, line: int) -> str:
    clean, replaced = replace_lone_surrogates(text)
    if replaced:
        log.warning("%s, line %d: %d lone surrogates were replaced by U+FFFD", file, line, replaced)
    return clean


def read_json(file: Path, why: str) -> dict[str, Any]:
    """Read a JSON object from a file.

    Parameters
    ----------
    file : Path
    why : str
        Ends the message if the file is missing: what should have written it, or what to do.

    Raises
    ------
    CareError
        The file is missing or is not a JSON object.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CareError(f"{file}: no such file; {why}") from None
    except (OSError, ValueError) as cause:
        raise CareError(f"{file}: cannot be read as JSON: {' '.join(str(cause).split())}") from None
    if not isinstance(values, dict):
        raise CareError(f"{file}: not a JSON object")
    return values


def write_json(file: Path, values: Any, *, private: bool = False) -> None:
    """Write JSON; see `write_text`."""
    write_text(file, json.dumps(values, ensure_ascii=False, indent=2) + "\n", private=private)


def write_text(file: Path, text: str, *, private: bool = False) -> None:
    """Write UTF-8 text; see `write_lines`."""
    write_lines(file, [text], private=private)


def write_lines(file: Path, lines: Iterable[str], *, private: bool = False) -> None:
    """Write lines, with their ends, as UTF-8 and atomically: to a temporary file, which is then renamed.

    With ``private`` the file has mode 0600, whatever its mode was before.

    Raises
    ------
    CareError
        The file cannot be written.
    """
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        if private:  # set the mode before writing
            temporary.unlink(missing_ok=True)
            temporary.touch(mode=0o600, exist_ok=False)
        with temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(lines)
        os.replace(temporary, file)
    except OSError as cause:
        with suppress(OSError):
            temporary.unlink()
        raise not_written(file, cause) from None


def cache_folder() -> Path:
    """Return the user's cache folder of this package; it may not exist.

    Raises
    ------
    RuntimeError
        The user has no home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "care_accel"


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
