"""Dry run of STS pair generation: pending requests and their estimated cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from care_accel.curation.config import JudgeConfig, Sts
from care_accel.curation.judges.costs import COST_COLUMNS, estimate_costs
from care_accel.curation.judges.judge import DEFAULT_ANSWER_TOKENS, estimate_tokens
from care_accel.curation.judges.prompting import Prompt
from care_accel.curation.steps import Summary
from care_accel.curation.sts.attempts import attempt_key, read_attempts
from care_accel.curation.sts.sources import KINDS, Kind, Source

# JSON overhead around a sentence.
_FORM_TOKENS = 8


def dry_run_summary(
    settings: Sts,
    work: Path,
    writer: JudgeConfig,
    judges: Sequence[JudgeConfig],
    sources: Sequence[Source],
    rewriting: Mapping[Kind, Prompt],
    checking: Prompt,
) -> Summary:
    """Return the pending requests: the fewest, if every untried rewrite passes, and the most.

    Parameters
    ----------
    settings : Sts
    work : Path
        Log of the attempts of earlier runs.
    writer : JudgeConfig
    judges : sequence of JudgeConfig
        The checkers.
    sources : sequence of Source
        In the order in which they are tried.
    rewriting : mapping of kind to Prompt
    checking : Prompt
    """
    known = read_attempts(work, repair=False)
    names = [f"{one.name} {one.model}" for one in (writer, *judges)]
    left: list[tuple[Kind, Source]] = []
    pairs = most = 0
    for position, source in enumerate(sources):
        untried, passed = [], False
        for turn in range(len(KINDS)):
            kind = KINDS[(position + turn) % len(KINDS)]
            attempt = known.get(attempt_key(kind, source, settings, names, (rewriting[kind], checking)))
            if attempt is None:
                untried.append((kind, source))
            elif attempt["why"] is None:
                passed = True
                break
        most += len(untried)
        if pairs < settings.size and (untried or passed):
            left += untried[:1]
            pairs += 1
    facts: dict[str, object] = {
        "pairs": f"{pairs:,} of {settings.size:,}",
        "sentences with a term": f"{len(sources):,}",
        "rewrites at most": f"{most:,}, if none passes; the table has the minimum",
    }
    rows: list[Sequence[str]] = [("judge", "task", "requests pending", *COST_COLUMNS)]
    templates = {kind: estimate_tokens(prompt.system + prompt.user) for kind, prompt in rewriting.items()}
    sentences = [estimate_tokens(source.sentence) for _, source in left]
    tokens_in = sum(
        templates[kind] + estimate_tokens(source.sentence + source.term + "".join(source.synonyms))
        for kind, source in left
    )
    tokens_out = sum(sentences) + _FORM_TOKENS * len(left)
    cost, cells = estimate_costs(writer, len(left), tokens_in, tokens_out)
    rows.append((writer.name, "writes", f"{len(left):,}", *cells))
    total = cost
    tokens_in = sum(estimate_tokens(checking.system + checking.user) + 2 * sentence for sentence in sentences)
    for judge in judges:
        cost, cells = estimate_costs(judge, len(left), tokens_in, DEFAULT_ANSWER_TOKENS * len(left))
        rows.append((judge.name, "checks", f"{len(left):,}", *cells))
        total += cost
    facts["total cost"] = f"{total:.2f}"
    facts["estimated by"] = (
        "one token per Chinese character and one per four others; a rewrite is as long as its sentence, the answer of a "
        f"check {DEFAULT_ANSWER_TOKENS} tokens; minutes from the rate limits only"
    )
    return Summary(facts, table=rows)
