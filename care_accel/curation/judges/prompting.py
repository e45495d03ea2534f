"""Prompt templates, versioned by hash, with boundaries around texts against prompt injection."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Literal

from care_accel.curation.config import HIGHEST, LOWEST, is_prompt_file
from care_accel.errors import CareError
from care_accel.fields import build, read_yaml

_FOLDER = Path(__file__).parent / "prompts"
_BOUNDARY_BYTES = 8
Message = dict[str, str]

_GRADE = {
    "type": "object",
    # Models generate fields in this order: the reason must precede the grade.
    "properties": {
        "reason": {"type": "string"},
        "grade": {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))},
    },
    "required": ["reason", "grade"],
    "additionalProperties": False,
}
_SENTENCE = {
    "type": "object",
    "properties": {"sentence": {"type": "string"}},
    "required": ["sentence"],
    "additionalProperties": False,
}
_SCHEMAS: dict[str, dict[str, Any]] = {"grade": _GRADE, "sentence": _SENTENCE}


@dataclass(frozen=True)
class _File:
    name: str
    answer: Literal["grade", "sentence"]
    system: str
    user: str


@dataclass(frozen=True)
class Prompt:
    """A prompt template.

    Attributes
    ----------
    version : str
        ``name@hash``, with the first 12 hex digits of the file's SHA-256. It is part of the key of every
        judgement, so that editing a prompt invalidates earlier answers.
    system, user : str
        The user message has placeholders for ``$boundary`` and the texts.
    schema : dict
        JSON schema of the answer.
    """

    version: str
    system: str
    user: str
    schema: dict[str, Any]

    def messages(self, texts: Mapping[str, str]) -> list[Message]:
        """Fill in texts, between boundaries drawn at random for every request.

        The author of a text cannot know the boundary, and it never occurs in the texts themselves.

        Parameters
        ----------
        texts : mapping of str to str
            By placeholder.
        """
        while any((boundary := secrets.token_hex(_BOUNDARY_BYTES)) in text for text in texts.values()):
            pass
        user = Template(self.user).substitute(texts, boundary=boundary)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


def load_prompt(name: str, placeholders: tuple[str, ...]) -> Prompt:
    """Load a prompt.

    Parameters
    ----------
    name : str
        Name of a built-in prompt, or path of a YAML file with ``name``, ``answer`` (``grade`` or ``sentence``),
        ``system`` and ``user``.
    placeholders : tuple of str
        Placeholders that it must have, besides ``$boundary``.

    Raises
    ------
    CareError
        There is no such prompt, a field is missing, or a placeholder is missing or unknown.
    """
    file = Path(name) if is_prompt_file(name) else _FOLDER / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in _FOLDER.glob("*.yaml")))
        raise CareError(f"prompt {name!r}: no such prompt; known are {known}, or the path of a .yaml file")
    values = build(_File, read_yaml(file), str(file))
    found = set(Template(values.user).get_identifiers())
    wanted = {*placeholders, "boundary"}
    if lacking := sorted(wanted - found):
        raise CareError(f"{file}: user lacks the placeholder ${lacking[0]}; add it")
    if others := sorted(found - wanted):
        raise CareError(
            f"{file}: user has an unknown placeholder ${others[0]}; remove it, or write $$ for a literal $"
        )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return Prompt(f"{values.name}@{digest}", values.system, values.user, _SCHEMAS[values.answer])
