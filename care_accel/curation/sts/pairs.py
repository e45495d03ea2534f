"""Sentence pairs that tell synonyms from what looks like them, written by one model and checked by others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

from care_accel.curation.config import HIGHEST, LOWEST, Config, Sts
from care_accel.curation.data import write_rows
from care_accel.curation.judges.endpoints import check_endpoints
from care_accel.curation.judges.judge import Judge, JudgeStopped
from care_accel.curation.judges.prompting import Message, Prompt, load_prompt
from care_accel.curation.labels.judging import LOCK, MOST_FAILURES, alone
from care_accel.curation.steps import Progress, Summary, silent
from care_accel.curation.sts.attempts import FILE as WORK
from care_accel.curation.sts.attempts import append_attempt, attempt_key, read_attempts
from care_accel.curation.sts.plan import plan
from care_accel.curation.sts.sources import KINDS, Kind, Source, find_sources, why_no_rewrite
from care_accel.curation.texts.redact import redact
from care_accel.errors import CareError, require_count
from care_accel.files import write_json

PAIRS = "sts.jsonl"
REPORT = "sts.json"


class Endpoint(Protocol):
    """A chat endpoint that answers in the form of a schema, or raises `CareError`."""

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return an answer."""


def run(config: Config, progress: Progress, *, dry_run: bool = False) -> Summary:
    """Write ``sts.jsonl`` and ``sts.json``; a run that was stopped goes on.

    Parameters
    ----------
    config : Config
    progress : callable
    dry_run : bool
        Ask nobody; tell how many requests are left, and about what they would take.

    Raises
    ------
    CareError
        The configuration has no sts, or a judge or a file cannot be used.
    """
    if (settings := config.sts) is None:
        raise CareError("the configuration has no sts; give it synonyms and sentences")
    check_endpoints(config.judges, config.judging)
    rewriting = {kind: load_prompt(f"sts-{kind}-v1", ("sentence", "term", "synonym")) for kind in KINDS}
    checking = load_prompt("sts-check-v1", ("first", "second"))
    output = config.output_file(PAIRS).parent
    # Who writes does not check its own writing, unless there is nobody else.
    writer = next(judge for judge in config.judges if settings.writer in (None, judge.name))
    others = [judge for judge in config.judges if judge is not writer] or config.judges
    redacted = redact if config.judging.redact else None
    if dry_run:
        sources = find_sources(settings, redacted)
        return plan(settings, output / WORK, writer, others, sources, rewriting, checking)

    async def everything() -> dict[str, Any]:
        async with AsyncExitStack() as stack:
            asked = {judge.name: await stack.enter_async_context(Judge(judge)) for judge in config.judges}
            return await make_sts(
                settings,
                output,
                asked[writer.name],
                [asked[judge.name] for judge in others],
                rewriting,
                checking,
                redact=redacted,
                progress=progress,
            )

    with alone(config.output_file(LOCK)):
        report = asyncio.run(everything())
    facts: dict[str, object] = {
        "pairs": f"{report['pairs']:,} of {settings.size:,}",
        **{f"pairs of kind {kind}": f"{count:,}" for kind, count in sorted(report["kinds"].items())},
        "sentences with a term": f"{report['sentences with a term']:,}",
        "sentences tried": f"{report['sentences tried']:,}",
    }
    table: list[Sequence[str]] = [("thrown away", "rewrites")]
    table += [(why, f"{count:,}") for why, count in sorted(report["thrown away"].items())]
    warnings = []
    if report["pairs"] < settings.size:
        warnings.append("too few sentences gave a pair; more sentences, or a larger a_term, give more")
    if report["last failure"]:
        warnings.append(f"some requests had no answer, the last: {report['last failure']}")
    return Summary(facts, table if len(table) > 1 else [], [output / PAIRS, output / REPORT], warnings)


async def make_sts(
    settings: Sts,
    output: Path,
    writer: Endpoint,
    judges: Sequence[Endpoint],
    rewriting: Mapping[Kind, Prompt],
    checking: Prompt,
    *,
    redact: Callable[[str], str] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write sentence pairs with scores from 0 to 1, and a report.

    Each sentence may be rewritten in three kinds; one is kept. They are tried in an order that begins with another
    kind from sentence to sentence, so that kinds are as many, and the first is kept that passes what can be seen
    (`why_no_rewrite`) and every judge. What the later ones would have been is not paid for.

    Parameters
    ----------
    settings : Sts
    output : Path
        A folder that is there. ``sts.jsonl`` has the pairs, ``sts-work.jsonl`` every attempt: a run goes on
        from there, and pays again at most for what was under way when it was stopped.
    writer : Endpoint
    judges : sequence of Endpoint
    rewriting : mapping of kind to Prompt
        With places ``sentence``, ``term`` and ``synonym``; the answer has ``sentence``.
    checking : Prompt
        With places ``first`` and ``second``; the answer has ``grade``, 1 to 5.
    redact : callable, optional
        Takes personal data out of a sentence before an endpoint sees it.
    progress : callable, optional

    Returns
    -------
    dict
        The report: pairs of each kind, and why others were thrown away.

    Raises
    ------
    CareError
        A file is missing or broken, no sentence holds a term, there is no judge, or an endpoint refuses all requests.
    """
    require_count("size", settings.size)
    if not judges:
        raise CareError("sts: no judge; pairs that nobody checked are no pairs")
    sources = find_sources(settings, redact)
    maker = _Maker(settings, output / WORK, writer, judges, rewriting, checking)
    taken: list[dict[str, Any]] = []
    with progress("sts pairs", settings.size) as done:
        position = 0
        while len(taken) < settings.size and position < len(sources):
            wave = sources[position : position + settings.size - len(taken)]
            made = await asyncio.gather(
                *(maker.make(source, position + i) for i, source in enumerate(wave)), return_exceptions=True
            )
            before = len(taken)
            for result in made:  # all have ended: what they paid for is kept
                if isinstance(result, BaseException):
                    raise result
                if result["kind"] is not None:
                    taken.append(result)
            position += len(wave)
            done(len(taken) - before)
    pairs = [_pair(result) for result in taken]
    write_rows(output / PAIRS, pairs)
    report = {
        "pairs": len(pairs),
        "kinds": dict(Counter(pair["kind"] for pair in pairs)),
        "sentences tried": position,
        "sentences with a term": len(sources),
        "thrown away": dict(maker.refused),
        "last failure": maker.failure,
        "prompts": {name: prompt.version for name, prompt in [*rewriting.items(), ("check", checking)]},
    }
    write_json(output / REPORT, report, private=True)
    return report


class _Maker:
    """Makes pairs and keeps what was paid for."""

    def __init__(
        self,
        settings: Sts,
        work: Path,
        writer: Endpoint,
        judges: Sequence[Endpoint],
        rewriting: Mapping[Kind, Prompt],
        checking: Prompt,
    ) -> None:
        self._settings, self._writer, self._judges = settings, writer, judges
        self._rewriting, self._checking = rewriting, checking
        self._work = work
        self._known = read_attempts(work)
        self._names = [_name(writer), *map(_name, judges)]
        self.refused: Counter[str] = Counter()
        self.failure: str | None = None
        self._in_a_row = 0

    async def make(self, source: Source, position: int) -> dict[str, Any]:
        """Return the pair of a source, its ``kind`` None if no rewrite passed."""
        for turn in range(len(KINDS)):
            kind = KINDS[(position + turn) % len(KINDS)]
            attempt = await self._attempt(kind, source)
            if attempt["why"] is None:
                return {**attempt, "kind": kind}
            self.refused[f"{kind}: {attempt['why']}"] += 1
        return {"kind": None}

    async def _attempt(self, kind: Kind, source: Source) -> dict[str, Any]:
        key = attempt_key(kind, source, self._settings, self._names, (self._rewriting[kind], self._checking))
        if key not in self._known:
            if self._in_a_row >= MOST_FAILURES:
                raise JudgeStopped(
                    f"{self._in_a_row} requests in a row had no answer, the last: {self.failure}"
                )
            attempt = {"key": key, "first": source.sentence, "term": source.term, "why": None}
            try:
                attempt |= await self._ask(kind, source)
            except JudgeStopped:  # it refuses all requests alike
                raise
            except CareError as failure:
                # Not kept: the next run asks again.
                self.failure = str(failure)
                self._in_a_row += 1
                return attempt | {"why": "no answer"}
            self._in_a_row = 0
            self._known[key] = attempt
            append_attempt(self._work, attempt)
        return self._known[key]

    async def _ask(self, kind: Kind, source: Source) -> dict[str, Any]:
        prompt = self._rewriting[kind]
        texts = {"sentence": source.sentence, "term": source.term, "synonym": "、".join(source.synonyms)}
        answer = await self._writer.complete(prompt.messages(texts), prompt.schema)
        second = str(answer["sentence"]).strip()
        if why := why_no_rewrite(kind, source, second):
            return {"second": second, "why": why}
        messages = [
            self._checking.messages({"first": source.sentence, "second": second}) for _ in self._judges
        ]
        replies = await asyncio.gather(
            *(j.complete(m, self._checking.schema) for j, m in zip(self._judges, messages, strict=True)),
            return_exceptions=True,  # none is left running behind the one that failed
        )
        grades = []
        for reply in replies:
            if isinstance(reply, BaseException):
                raise reply
            grades.append(int(reply["grade"]))
        if kind == "synonym":
            agreed = min(grades) >= self._settings.same_from
        else:
            agreed = max(grades) <= self._settings.changed_to
        return {
            "second": second,
            "grades": grades,
            "why": None if agreed else "judges do not agree that it is one",
        }


def _name(endpoint: Endpoint) -> str:
    config = getattr(endpoint, "config", None)
    return f"{getattr(config, 'name', '')} {getattr(config, 'model', '')}"


def _pair(attempt: dict[str, Any]) -> dict[str, Any]:
    grades = attempt["grades"]
    mean = sum(grades) / len(grades)
    return {
        "sentence1": attempt["first"],
        "sentence2": attempt["second"],
        "score": round((mean - LOWEST) / (HIGHEST - LOWEST), 4),
        "kind": attempt["kind"],
        "term": attempt["term"],
        "grades": grades,
    }
