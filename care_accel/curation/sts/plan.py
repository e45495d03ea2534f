"""What making sentence pairs would take, without asking anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from care_accel.curation.config import JudgeConfig, Sts
from care_accel.curation.judges.costs import COSTS, estimate_costs
from care_accel.curation.judges.judge import ANSWER_TOKENS, estimate_tokens
from care_accel.curation.judges.prompting import Prompt
from care_accel.curation.steps import Summary
from care_accel.curation.sts.attempts import attempt_key, read_attempts
from care_accel.curation.sts.sources import KINDS, Kind, Source

# Of the braces and the field's name around a sentence.
_FORM_TOKENS = 8


def plan(
    settings: Sts,
    work: Path,
    writer: JudgeConfig,
    judges: Sequence[JudgeConfig],
    sources: Sequence[Source],
    rewriting: Mapping[Kind, Prompt],
    checking: Prompt,
) -> Summary:
    """Tell what is left to ask if every rewrite that nobody has tried yet passes at once, and at most.

    Parameters
    ----------
    settings : Sts
    work : Path
        The attempts of earlier runs.
    writer : JudgeConfig
    judges : sequence of JudgeConfig
        Who checks.
    sources : sequence of Source
        In the order in which they are tried.
    rewriting : mapping of kind to Prompt
    checking : Prompt
    """
    known = read_attempts(work, mend=False)
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
        "rewrites at most": f"{most:,}, if none passed; the table has the fewest",
    }
    rows: list[Sequence[str]] = [("judge", "does", "requests left", *COSTS)]
    words = {kind: estimate_tokens(prompt.system + prompt.user) for kind, prompt in rewriting.items()}
    sentences = [estimate_tokens(source.sentence) for _, source in left]
    told = sum(
        words[kind] + estimate_tokens(source.sentence + source.term + "".join(source.synonyms))
        for kind, source in left
    )
    said = sum(sentences) + _FORM_TOKENS * len(left)
    cost, cells = estimate_costs(writer, len(left), told, said)
    rows.append((writer.name, "writes", f"{len(left):,}", *cells))
    total = cost
    told = sum(estimate_tokens(checking.system + checking.user) + 2 * sentence for sentence in sentences)
    for judge in judges:
        cost, cells = estimate_costs(judge, len(left), told, ANSWER_TOKENS * len(left))
        rows.append((judge.name, "checks", f"{len(left):,}", *cells))
        total += cost
    facts["cost in all"] = f"{total:.2f}"
    facts["how"] = (
        "estimates: one token a Chinese character and one for four others; a rewrite is as long as its sentence, a "
        f"check's answer {ANSWER_TOKENS} tokens; minutes by the limits alone"
    )
    return Summary(facts, table=rows)
