"""The plan of a run: which rows are encoded together. The same input gives the same plan, whoever encodes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from care_accel.collection.sources.find import Source, find_sources
from care_accel.collection.sources.ranges import Piece, cut, text_size
from care_accel.collection.sources.rows import Selection
from care_accel.collection.sources.streams import known_encoding
from care_accel.collection.storage.manifest import Manifest
from care_accel.errors import CareError

FORMAT = 1
# UTF-8 bytes of a token: of Chinese three, of English four. Only the size of parts depends on it.
BYTES_PER_TOKEN = 3
# A part takes one worker some minutes with a large network, and a corpus has enough parts for workers to share.
MOST_TOKENS, LEAST_TOKENS, _PARTS = 4_000_000, 20_000, 64
# So many times as large as most parts: of a file that cannot be cut.
_LARGE = 2
# A part is closed before a piece that would make it so much larger than wanted.
_SLACK = 1.25


@dataclass(frozen=True)
class Reading:
    """How rows become documents; the arguments of `read_documents`.

    Attributes
    ----------
    id, text, title, fields, encoding
        As there.
    skip_bad : bool
        Leave out rows that are no documents.
    """

    id: str | None = None
    text: str = "text"
    title: str | None = None
    fields: tuple[str, ...] | None = None
    encoding: str = "utf-8"
    skip_bad: bool = False

    def selection(self) -> Selection:
        """Return what makes a document of a row."""
        return Selection(self.id, self.text, self.title, self.fields)


@dataclass(frozen=True)
class Part:
    """Rows that one worker encodes and commits together.

    Attributes
    ----------
    number : int
        Its place in the plan; of a document that comes twice, the later part has the last word.
    pieces : tuple of Piece
    tokens : int
        Estimated.
    """

    number: int
    pieces: tuple[Piece, ...]
    tokens: int

    def describe(self) -> str:
        """Return where its rows are, for a message."""
        names = [piece.describe() for piece in self.pieces]
        rest = f" and {len(names) - 2} more" if len(names) > 3 else ""
        return f"part {self.number} ({'; '.join(names[:2] if rest else names)}{rest})"


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    Attributes
    ----------
    parts : tuple of Part
    settings : dict
        What the result depends on beside the sources: collection, model revision, prompts, width, chunking, and how rows
        are read.
    """

    parts: tuple[Part, ...]
    settings: dict[str, Any]

    @property
    def hash(self) -> str:
        """Hash of everything, the sizes and times of change of the sources included."""
        return f"sha256:{hashlib.sha256(self._text().encode()).hexdigest()}"

    @property
    def tokens(self) -> int:
        """Estimated tokens of all parts."""
        return sum(part.tokens for part in self.parts)

    def write(self) -> dict[str, Any]:
        """Return the plan as JSON."""
        return {"format": FORMAT, "hash": self.hash, **json.loads(self._text())}

    @classmethod
    def read(cls, values: dict[str, Any], where: str) -> Plan:
        """Return the plan of JSON.

        Raises
        ------
        CareError
            It is of another release, or was changed.
        """
        if values.get("format") != FORMAT:
            raise CareError(
                f"{where}: format {values.get('format')!r} is unknown; this release reads {FORMAT}"
            )
        try:
            parts = tuple(
                Part(
                    number=part["number"],
                    pieces=tuple(
                        Piece(**piece | {"stamp": tuple(piece["stamp"])}) for piece in part["pieces"]
                    ),
                    tokens=part["tokens"],
                )
                for part in values["parts"]
            )
            plan = cls(parts, values["settings"])
        except (KeyError, TypeError):
            plan = None
        if plan is None or plan.hash != values.get("hash"):
            raise CareError(f"{where}: was changed; run again with --new-plan")
        return plan

    def work_order(self) -> list[Part]:
        """Return the parts in the order in which they are handed out.

        Parts that are much larger than most come first, and the last ones largest first: no long one is left for the end. Between
        them is the order of the plan, in which they are committed: so commits go on meanwhile.
        """
        if not self.parts:
            return []
        usual = sorted(part.tokens for part in self.parts)[len(self.parts) // 2]
        large = [part for part in self.parts if part.tokens > _LARGE * usual]
        others = [part for part in self.parts if part.tokens <= _LARGE * usual]
        return [*_largest_first(large), *others[:-_PARTS], *_largest_first(others[-_PARTS:])]

    def _text(self) -> str:
        values = {"settings": self.settings, "parts": [dataclasses.asdict(part) for part in self.parts]}
        return json.dumps(values, ensure_ascii=False, sort_keys=True)


def _largest_first(parts: Iterable[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: (-part.tokens, part.number))


def make_plan(
    paths: Sequence[str | Path],
    reading: Reading,
    manifest: Manifest,
    *,
    part_tokens: int | None = None,
) -> Plan:
    """Plan a run; text is read only to find the ends of lines.

    Parameters
    ----------
    paths : sequence of str or Path
        As in `read_documents`; neither standard input nor a data set of the hub.
    reading : Reading
    manifest : Manifest
        Of the collection.
    part_tokens : int, optional
        Tokens of a part, about; by default 20,000 to 4,000,000, so that there are some 64 parts.

    Raises
    ------
    CareError
        A source is missing, or cannot be read by several machines.
    """
    known_encoding(reading.encoding)
    sources = find_sources(paths)
    selection = reading.selection()
    if part_tokens is None:
        total = sum(text_size(source, selection) for source in sources) // BYTES_PER_TOKEN
        part_tokens = min(max(total // _PARTS, LEAST_TOKENS), MOST_TOKENS)
    elif part_tokens < 1:
        raise CareError(f"part_tokens is {part_tokens}; it must be 1 or more")
    return Plan(
        tuple(_parts(_pieces(sources, selection, part_tokens), part_tokens)), settings(reading, manifest)
    )


def settings(reading: Reading, manifest: Manifest) -> dict[str, Any]:
    """Return what the result depends on beside the sources."""
    read = dataclasses.asdict(reading)
    return {
        "collection": manifest.uuid,
        "model": manifest.model,
        "revision": manifest.revision,
        "prompts": dict(manifest.prompts),
        "width": manifest.width,
        "order": manifest.order,
        "chunking": [manifest.chunk_tokens, manifest.chunk_overlap],
        "reading": read | {"fields": None if reading.fields is None else list(reading.fields)},
    }


def _pieces(sources: Iterable[Source], selection: Selection, part_tokens: int) -> Iterable[Piece]:
    for source in sources:
        yield from cut(source, selection, part_tokens * BYTES_PER_TOKEN)


def _parts(pieces: Iterable[Piece], part_tokens: int) -> Iterable[Part]:
    """Put consecutive small pieces into one part."""
    number, tokens = 0, 0
    waiting: list[Piece] = []
    for piece in pieces:
        more = -(-piece.size // BYTES_PER_TOKEN)
        if waiting and tokens + more > _SLACK * part_tokens:
            yield Part(number, tuple(waiting), tokens)
            number, waiting, tokens = number + 1, [], 0
        waiting.append(piece)
        tokens += more
    if waiting:
        yield Part(number, tuple(waiting), tokens)
