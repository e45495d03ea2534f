"""Every attempt at a sentence pair, kept as it comes: nothing is paid for twice."""

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
    """Return what an attempt depends on: an edited prompt, another judge or limit makes another one.

    Parameters
    ----------
    kind : {"synonym", "changed", "other"}
    source : Source
    settings : Sts
    endpoints : iterable of str
        Name and model of who writes, then of who checks.
    prompts : sequence of Prompt
        For this kind of rewriting, and for checking.
    """
    versions = [prompt.version for prompt in prompts]
    limits = [settings.same_from, settings.changed_to]
    parts = [kind, source.sentence, source.term, *source.synonyms, *endpoints, *versions, *limits]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def append_attempt(file: Path, attempt: dict[str, Any]) -> None:
    """Write an attempt behind the others; only their owner can read them."""
    line = json.dumps(attempt, ensure_ascii=False) + "\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode("utf-8", "replace"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_attempts(file: Path, *, mend: bool = True) -> dict[str, dict[str, Any]]:
    """Read what earlier runs paid for, by key.

    Parameters
    ----------
    file : Path
    mend : bool
        Cut off the last line if it is half written, so that the next attempt begins a line of its own.

    Raises
    ------
    CareError
        A whole line is no JSON.
    """
    if not file.is_file():
        return {}
    whole, _, half = file.read_bytes().rpartition(b"\n")
    if half and mend:
        os.truncate(file, len(whole) + 1 if whole else 0)
    try:
        return {attempt["key"]: attempt for attempt in map(json.loads, whole.splitlines())}
    except ValueError:
        raise CareError(f"{file}: holds a line that is no JSON; remove the line or the file") from None
