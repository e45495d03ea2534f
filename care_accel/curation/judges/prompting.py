"""Prompts: versioned files of this package or of one's own, and texts put into them so that they stay texts."""

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
    # Models write in this order: the reason comes before what follows from it.
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
    """What judges are asked.

    Attributes
    ----------
    version : str
        ``name@hash``, with the first 12 digits of the file's SHA-256: part of the key of every judgement, so that
        answers to an edited prompt are never taken for answers to the old.
    system, user : str
        The user's message has places ``$boundary`` and those of the texts.
    schema : dict
        JSON schema of the answer.
    """

    version: str
    system: str
    user: str
    schema: dict[str, Any]

    def messages(self, texts: Mapping[str, str]) -> list[Message]:
        """Put texts in, between boundaries that are drawn anew for every request.

        Nobody who wrote a text can know the boundary, and a text that holds it by chance gets another one.

        Parameters
        ----------
        texts : mapping of str to str
            By the names of the places.
        """
        while any((boundary := secrets.token_hex(_BOUNDARY_BYTES)) in text for text in texts.values()):
            pass
        user = Template(self.user).substitute(texts, boundary=boundary)
        return [{"role": "system", "content": self.system}, {"role": "user", "content": user}]


def load_prompt(name: str, places: tuple[str, ...]) -> Prompt:
    """Read a prompt.

    Parameters
    ----------
    name : str
        Of one in this package, or the path of a YAML file with ``name``, ``answer`` (``grade`` or ``sentence``),
        ``system`` and ``user``.
    places : tuple of str
        The texts that it must have a place for, besides the boundary.

    Raises
    ------
    CareError
        There is no such prompt, a field is missing, or it lacks a place or has one too many.
    """
    file = Path(name) if is_prompt_file(name) else _FOLDER / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(f.stem for f in _FOLDER.glob("*.yaml")))
        raise CareError(f"prompt {name!r}: no such prompt; known are {known}, or the path of a .yaml file")
    values = build(_File, read_yaml(file), str(file))
    found = set(Template(values.user).get_identifiers())
    wanted = {*places, "boundary"}
    if lacking := sorted(wanted - found):
        raise CareError(f"{file}: user has no place ${lacking[0]}; a text or its boundary would be left out")
    if others := sorted(found - wanted):
        raise CareError(f"{file}: user has a place ${others[0]} that nothing is put into; write $$ for a $")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    return Prompt(f"{values.name}@{digest}", values.system, values.user, _SCHEMAS[values.answer])
