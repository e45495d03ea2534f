"""STS pairs that separate synonyms from lookalikes, written by one LLM and checked by others."""

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
from care_accel.curation.judges.judge import Judge, JudgeUnavailable
from care_accel.curation.judges.prompting import Message, Prompt, load_prompt
from care_accel.curation.labels.judging import LOCK, MAX_CONSECUTIVE_FAILURES, exclusive_lock
from care_accel.curation.steps import Progress, Summary, no_progress
from care_accel.curation.sts.attempts import FILE as WORK
from care_accel.curation.sts.attempts import append_attempt, attempt_key, read_attempts
from care_accel.curation.sts.plan import dry_run_summary
from care_accel.curation.sts.sources import KINDS, Kind, Source, find_sources, rewrite_rejection_reason
from care_accel.curation.texts.redact import redact
from care_accel.errors import CareError, require_count
from care_accel.files import write_json

PAIRS = "sts.jsonl"
REPORT = "sts.json"


class Endpoint(Protocol):
    """A chat endpoint with structured answers; raises `CareError` on failure."""

    async def complete(self, messages: Sequence[Message], schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return an answer that matches the schema."""


def run(config: Config, progress: Progress, *, dry_run: bool = False) -> Summary:
    """Write ``sts.jsonl`` and ``sts.json``; resumes an interrupted run.

    Parameters
    ----------
    config : Config
    progress : callable
    dry_run : bool
        Send no requests; return the pending requests and their estimated cost.

    Raises
    ------
    CareError
        The configuration has no sts, or a judge or a file cannot be used.
    """
    if (settings := config.sts) is None:
        raise CareError("the configuration has no sts; add it with synonyms and sentences")
    check_endpoints(config.judges, config.judging)
    rewriting = {kind: load_prompt(f"sts-{kind}-v1", ("sentence", "term", "synonym")) for kind in KINDS}
    checking = load_prompt("sts-check-v1", ("first", "second"))
    output = config.output_file(PAIRS).parent
    # The writer does not check its own rewrites, unless it is the only judge.
    writer = next(judge for judge in config.judges if settings.writer in (None, judge.name))
    others = [judge for judge in config.judges if judge is not writer] or config.judges
    redactor = redact if config.judging.redact else None
    if dry_run:
        sources = find_sources(settings, redactor)
        return dry_run_summary(settings, output / WORK, writer, others, sources, rewriting, checking)

    async def everything() -> dict[str, Any]:
        async with AsyncExitStack() as stack:
            clients = {judge.name: await stack.enter_async_context(Judge(judge)) for judge in config.judges}
            return await make_sts(
                settings,
                output,
                clients[writer.name],
                [clients[judge.name] for judge in others],
                rewriting,
                checking,
                redact=redactor,
                progress=progress,
            )

    with exclusive_lock(config.output_file(LOCK)):
        report = asyncio.run(everything())
    facts: dict[str, object] = {
        "pairs": f"{report['pairs']:,} of {settings.size:,}",
        **{f"pairs of kind {kind}": f"{count:,}" for kind, count in sorted(report["kinds"].items())},
        "sentences with a term": f"{report['sentences with a term']:,}",
        "sentences tried": f"{report['sentences tried']:,}",
    }
    table: list[Sequence[str]] = [("rejected", "rewrites")]
    table += [(why, f"{count:,}") for why, count in sorted(report["thrown away"].items())]
    warnings = []
    if report["pairs"] < settings.size:
        warnings.append("too few sentences gave a pair; add sentences or raise a_term")
    if report["last failure"]:
        warnings.append(f"some requests failed, the last: {report['last failure']}")
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
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write sentence pairs with scores from 0 to 1, and a report.

    At most one of three kinds of rewrite is kept per sentence: the first to pass the rule-based checks
    (`rewrite_rejection_reason`) and every judge. The first kind tried rotates from sentence to sentence, which balances
    the kinds; kinds not reached are not paid for.

    Parameters
    ----------
    settings : Sts
    output : Path
        An existing folder. ``sts.jsonl`` has the pairs, ``sts-work.jsonl`` all attempts: a run resumes from them, and
        repeats at most the requests in flight when it was interrupted.
    writer : Endpoint
    judges : sequence of Endpoint
    rewriting : mapping of kind to Prompt
        Placeholders ``sentence``, ``term`` and ``synonym``; the answer has ``sentence``.
    checking : Prompt
        Placeholders ``first`` and ``second``; the answer has ``grade``, 1 to 5.
    redact : callable, optional
        Redacts personal data before a sentence is sent.
    progress : callable, optional

    Returns
    -------
    dict
        The report: pairs by kind, and rejected rewrites by reason.

    Raises
    ------
    CareError
        A file is missing or invalid, no sentence has a term, there is no judge, or an endpoint rejects all requests.
    """
    require_count("size", settings.size)
    if not judges:
        raise CareError("sts: no judge to check the pairs; list at least one under judges")
    sources = find_sources(settings, redact)
    generator = _PairGenerator(settings, output / WORK, writer, judges, rewriting, checking)
    accepted: list[dict[str, Any]] = []
    with progress("sts pairs", settings.size) as done:
        position = 0
        while len(accepted) < settings.size and position < len(sources):
            wave = sources[position : position + settings.size - len(accepted)]
            made = await asyncio.gather(
                *(generator.generate(source, position + i) for i, source in enumerate(wave)),
                return_exceptions=True,
            )
            before = len(accepted)
            for result in made:  # all have finished and are logged
                if isinstance(result, BaseException):
                    raise result
                if result["kind"] is not None:
                    accepted.append(result)
            position += len(wave)
            done(len(accepted) - before)
    pairs = [_pair(result) for result in accepted]
    write_rows(output / PAIRS, pairs)
    report = {
        "pairs": len(pairs),
        "kinds": dict(Counter(pair["kind"] for pair in pairs)),
        "sentences tried": position,
        "sentences with a term": len(sources),
        "thrown away": dict(generator.rejected),
        "last failure": generator.failure,
        "prompts": {name: prompt.version for name, prompt in [*rewriting.items(), ("check", checking)]},
    }
    write_json(output / REPORT, report, private=True)
    return report


class _PairGenerator:
    """Generates pairs and logs every attempt."""

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
        self.rejected: Counter[str] = Counter()
        self.failure: str | None = None
        self._consecutive_failures = 0

    async def generate(self, source: Source, position: int) -> dict[str, Any]:
        """Return the pair of a source; ``kind`` is None if no rewrite passed."""
        for turn in range(len(KINDS)):
            kind = KINDS[(position + turn) % len(KINDS)]
            attempt = await self._attempt(kind, source)
            if attempt["why"] is None:
                return {**attempt, "kind": kind}
            self.rejected[f"{kind}: {attempt['why']}"] += 1
        return {"kind": None}

    async def _attempt(self, kind: Kind, source: Source) -> dict[str, Any]:
        key = attempt_key(kind, source, self._settings, self._names, (self._rewriting[kind], self._checking))
        if key not in self._known:
            if self._consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
                raise JudgeUnavailable(
                    f"{self._consecutive_failures} consecutive requests failed, the last: {self.failure}"
                )
            attempt = {"key": key, "first": source.sentence, "term": source.term, "why": None}
            try:
                attempt |= await self._ask(kind, source)
            except JudgeUnavailable:  # it rejects all requests
                raise
            except CareError as failure:
                # Not logged: the next run retries it.
                self.failure = str(failure)
                self._consecutive_failures += 1
                return attempt | {"why": "no answer"}
            self._consecutive_failures = 0
            self._known[key] = attempt
            append_attempt(self._work, attempt)
        return self._known[key]

    async def _ask(self, kind: Kind, source: Source) -> dict[str, Any]:
        prompt = self._rewriting[kind]
        texts = {"sentence": source.sentence, "term": source.term, "synonym": "、".join(source.synonyms)}
        answer = await self._writer.complete(prompt.messages(texts), prompt.schema)
        second = str(answer["sentence"]).strip()
        if why := rewrite_rejection_reason(kind, source, second):
            return {"second": second, "why": why}
        messages = [
            self._checking.messages({"first": source.sentence, "second": second}) for _ in self._judges
        ]
        replies = await asyncio.gather(
            *(j.complete(m, self._checking.schema) for j, m in zip(self._judges, messages, strict=True)),
            return_exceptions=True,  # so that none is left running if one fails
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
