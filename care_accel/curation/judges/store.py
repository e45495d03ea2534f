"""SQLite store of judgements: one row per judge, query, document and prompt, readable by its owner only."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from care_accel.curation.config import JudgeConfig
from care_accel.curation.judges.judge import Reply
from care_accel.errors import ELSEWHERE, CareError, full_disk, tells_full_disk

FILE = "judgements.sqlite3"
_FORMAT = 1
_KEPT = "the judgements before are kept; free some space and run the same command again"
_TABLE = """
CREATE TABLE IF NOT EXISTS judgements (
    judge TEXT NOT NULL,
    query TEXT NOT NULL,
    document TEXT NOT NULL,
    prompt TEXT NOT NULL,
    texts TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('answered', 'unreadable', 'unanswered')),
    grade INTEGER,
    answer TEXT,
    first_answer TEXT,
    error TEXT,
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    cost REAL NOT NULL,
    asked_model TEXT NOT NULL,
    model TEXT,
    temperature REAL NOT NULL,
    seed INTEGER,
    at TEXT NOT NULL,
    PRIMARY KEY (judge, query, document, prompt),
    CHECK ((grade IS NOT NULL) = (outcome = 'answered'))
) WITHOUT ROWID
"""


@dataclass(frozen=True)
class Pair:
    """A query-document pair.

    Attributes
    ----------
    query, document : str
        Their ids.
    """

    query: str
    document: str


def digest(*texts: str) -> str:
    """Return a hash of texts as judges see them: a judgement counts only if the texts are unchanged."""
    total = hashlib.sha256()
    for text in texts:
        total.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return total.hexdigest()[:32]


class Store:
    """Table of judgements. It has no texts, but the judges' raw answers may quote them.

    Each answer is committed as it arrives. If the process is killed between receiving and committing an answer, that
    pair is judged again, and its first answer is paid for but lost.

    Parameters
    ----------
    file : Path

    Raises
    ------
    CareError
        The file cannot be opened, or is not a store.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        if not file.exists():
            with suppress(FileExistsError):
                os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            file.chmod(0o600)
            # SQLite gives the -wal and -shm files the permissions of the database.
            self._base = sqlite3.connect(file, isolation_level=None, timeout=30)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")  # a paid answer survives a power cut too
            self._base.execute("PRAGMA secure_delete = ON")
            known = self._base.execute("PRAGMA user_version").fetchone()[0]
            if known not in (0, _FORMAT):
                raise CareError(f"{file}: unknown format {known}; this release reads {_FORMAT}")
            self._base.execute(_TABLE)
            self._base.execute(f"PRAGMA user_version = {_FORMAT}")
        except (sqlite3.Error, OSError) as cause:
            if why := full_disk(cause):
                raise CareError(f"{file}: {why}; {ELSEWHERE}") from None
            raise CareError(f"{file}: cannot be used: {cause}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def check_model(self, judge: JudgeConfig, prompt: str) -> None:
        """Reject a judge whose name already has judgements by another model.

        Raises
        ------
        CareError
            It has.
        """
        row = self._base.execute(
            "SELECT asked_model FROM judgements WHERE judge = ? AND prompt = ? AND asked_model != ? LIMIT 1",
            (judge.name, prompt, judge.model),
        ).fetchone()
        if row:
            raise CareError(
                f"judge {judge.name!r} has judgements by model {row[0]!r} in {self.file}, and is now {judge.model!r}; "
                "give it another name, so that the two are not mixed"
            )

    def finished(self, judge: str, prompt: str, *, again: bool = False) -> dict[Pair, str]:
        """Return the hash of the texts of every pair that is done.

        Pairs without an answer are retried; those with an unreadable answer only if ``again``.
        """
        outcomes = ("answered",) if again else ("answered", "unreadable")
        rows = self._base.execute(
            f"SELECT query, document, texts FROM judgements WHERE judge = ? AND prompt = ? "
            f"AND outcome IN ({', '.join('?' * len(outcomes))})",
            (judge, prompt, *outcomes),
        )
        return {Pair(query, document): texts for query, document, texts in rows}

    def unanswered(self, judge: str, prompt: str) -> set[Pair]:
        """Return the pairs whose requests failed."""
        rows = self._base.execute(
            "SELECT query, document FROM judgements WHERE judge = ? AND prompt = ? AND outcome = 'unanswered'",
            (judge, prompt),
        )
        return {Pair(query, document) for query, document in rows}

    def add(
        self, judge: JudgeConfig, pair: Pair, prompt: str, texts: str, reply: Reply, grade: int | None
    ) -> None:
        """Insert or replace a judgement; tokens and costs of a replaced one are added.

        Parameters
        ----------
        judge : JudgeConfig
        pair : Pair
        prompt : str
            Version of the prompt.
        texts : str
            `digest` of the texts.
        reply : Reply
        grade : int or None
            None without a valid answer.
        """
        cost = (reply.tokens_in * judge.price.input + reply.tokens_out * judge.price.output) / 1e6
        values = {
            "judge": judge.name,
            "query": pair.query,
            "document": pair.document,
            "prompt": prompt,
            "texts": texts,
            "outcome": reply.outcome,
            "grade": grade,
            "answer": reply.raw,
            "first_answer": reply.first_raw,
            "error": reply.error,
            "tokens_in": reply.tokens_in,
            "tokens_out": reply.tokens_out,
            "cost": cost,
            "asked_model": judge.model,
            "model": reply.model,
            "temperature": judge.temperature,
            "seed": judge.seed,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        sums = ("tokens_in", "tokens_out", "cost")
        changes = [
            f"{name} = {f'{name} + ' if name in sums else ''}excluded.{name}" for name in list(values)[4:]
        ]
        with tells_full_disk(self.file, _KEPT):
            self._base.execute(
                f"INSERT INTO judgements ({', '.join(values)}) VALUES ({', '.join(f':{name}' for name in values)}) "
                f"ON CONFLICT DO UPDATE SET {', '.join(changes)}",
                values,
            )

    def grades(self, judge: str, prompt: str) -> dict[Pair, tuple[str, int]]:
        """Return, by pair, the hash of the texts and the grade."""
        rows = self._base.execute(
            "SELECT query, document, texts, grade FROM judgements WHERE judge = ? AND prompt = ? AND outcome = 'answered'",
            (judge, prompt),
        )
        return {Pair(query, document): (texts, grade) for query, document, texts, grade in rows}

    def mean_answer_tokens(self, judge: str, prompt: str) -> float | None:
        """Return the mean tokens of an answer so far; None before the first."""
        row = self._base.execute(
            "SELECT AVG(tokens_out) FROM judgements WHERE judge = ? AND prompt = ? AND tokens_out > 0",
            (judge, prompt),
        ).fetchone()
        return None if row[0] is None else float(row[0])

    def totals(self, judges: Iterable[str], prompt: str) -> dict[str, dict[str, float]]:
        """Return, by judge, counts of answered, unreadable and unanswered pairs, tokens and cost."""
        found = {}
        for judge in judges:
            row = self._base.execute(
                "SELECT TOTAL(outcome = 'answered'), TOTAL(outcome = 'unreadable'), TOTAL(outcome = 'unanswered'), "
                "TOTAL(tokens_in), TOTAL(tokens_out), TOTAL(cost) FROM judgements WHERE judge = ? AND prompt = ?",
                (judge, prompt),
            ).fetchone()
            names = ("answered", "unreadable", "unanswered", "tokens_in", "tokens_out", "cost")
            found[judge] = {
                name: value if name == "cost" else int(value) for name, value in zip(names, row, strict=True)
            }
        return found

    def purge_answers(self) -> int:
        """Delete raw answers and return their number; grades, tokens and costs are kept."""
        with (
            tells_full_disk(self.file, _KEPT),
            closing(
                self._base.execute(
                    "UPDATE judgements SET answer = NULL, first_answer = NULL, error = NULL "
                    "WHERE answer IS NOT NULL OR first_answer IS NOT NULL OR error IS NOT NULL"
                )
            ) as changed,
        ):
            count = changed.rowcount
        # Overwrite the deleted bytes, in the database and in its write-ahead log.
        with tells_full_disk(self.file, _KEPT):
            self._base.execute("VACUUM")
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count


def open_store(file: Path) -> Store:
    """Open an existing store.

    Raises
    ------
    CareError
        There is none.
    """
    if not file.is_file():
        raise CareError(f"{file}: no such file; run care-accel curate judge first")
    return Store(file)


def remove_store(file: Path) -> list[Path]:
    """Delete a store with its write-ahead log, and return the deleted files."""
    found = [f for f in (file, *(file.with_name(file.name + end) for end in ("-wal", "-shm"))) if f.exists()]
    for one in found:
        one.unlink()
    return found
