"""Log of all attempts at sentence pairs, so that no request is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from care_accel.curation.config import Sts
from care_accel.curation.judges.prompting import Prompt
from care_accel.curation.sts.sources import Kind, Source
from care_accel.errors import CareError

FILE = "sts-work.jsonl"


def attempt_key(
    kind: Kind, source: Source, settings: Sts, endpoints: Iterable[str], prompts: Sequence[Prompt]
) -> str:
    """Return the key of an attempt: a changed prompt, judge or threshold gives another key.

    Parameters
    ----------
    kind : {"synonym", "changed", "other"}
    source : Source
    settings : Sts
    endpoints : iterable of str
        Name and model of the writer, then of the checkers.
    prompts : sequence of Prompt
        For rewriting of this kind, and for checking.
    """
    versions = [prompt.version for prompt in prompts]
    limits = [settings.same_from, settings.changed_to]
    parts = [kind, source.sentence, source.term, *source.synonyms, *endpoints, *versions, *limits]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def append_attempt(file: Path, attempt: dict[str, Any]) -> None:
    """Append an attempt to the log, which is readable by its owner only."""
    line = json.dumps(attempt, ensure_ascii=False) + "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode("utf-8", "replace"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_attempts(file: Path, *, repair: bool = True) -> dict[str, dict[str, Any]]:
    """Read the attempts of earlier runs, by key.

    Parameters
    ----------
    file : Path
    repair : bool
        Truncate an incomplete last line, so that the next attempt starts on a new line.

    Raises
    ------
    CareError
        A complete line is not JSON.
    """
    if not file.is_file():
        return {}
    whole, _, half = file.read_bytes().rpartition(b"\n")
    if half and repair:
        os.truncate(file, len(whole) + 1 if whole else 0)
    try:
        return {attempt["key"]: attempt for attempt in map(json.loads, whole.splitlines())}
    except ValueError:
        raise CareError(f"{file}: has a line that is not JSON; remove the line or the file") from None
