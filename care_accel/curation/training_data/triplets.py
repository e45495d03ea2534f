"""Training triplets from queries and documents: cleaned, deduplicated, diverse, with judged hard negatives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.curation.config import Config, TrainData
from care_accel.curation.data import write_rows
from care_accel.curation.judges.endpoints import check_endpoints
from care_accel.curation.judges.prompting import Prompt, load_prompt
from care_accel.curation.judges.store import FILE, Pair, Store, digest
from care_accel.curation.labels.candidates import CACHE, vector_cache
from care_accel.curation.labels.judging import (
    LOCK,
    PLACEHOLDERS,
    Task,
    dry_run_summary,
    exclusive_lock,
    judge_all,
    pending_tasks,
)
from care_accel.curation.labels.vote import decide
from care_accel.curation.steps import Progress, Summary, no_progress
from care_accel.curation.texts.clean import clean_text, rejection_reason
from care_accel.curation.texts.diversity import select_diverse
from care_accel.curation.texts.duplicates import find_exact_duplicates, find_near_duplicates
from care_accel.curation.texts.redact import redact
from care_accel.curation.training_data.hard_negatives import (
    Judge,
    JudgedCandidates,
    drop_likely_positives,
    fused_candidates,
    judge_candidates,
)
from care_accel.encoding import DualEncoder
from care_accel.errors import CareError
from care_accel.files import read_jsonl, text_field, text_list_field, write_json

TRIPLETS = "train.jsonl"
REPORT = "train-data.json"
_QUERY_BATCH = 1024


@dataclass
class TrainingQuery:
    """A query with the positions of its labelled positive and negative documents."""

    text: str
    positive: list[int] = field(default_factory=list)
    negative: list[int] = field(default_factory=list)


@dataclass
class PreparedData:
    """Queries, documents and candidates, ready to be judged.

    Attributes
    ----------
    queries : list of TrainingQuery
    documents : list of str
    candidates : numpy.ndarray
        int64 ``[n, depth]``: positions of each query's candidates, best first, padded with -1.
    counts, unusable : dict of str to int
        Texts left after each step; rejected texts by reason.
    """

    queries: list[TrainingQuery]
    documents: list[str]
    candidates: NDArray[np.int64]
    counts: dict[str, int]
    unusable: dict[str, int]

    @property
    def labelled(self) -> list[set[int]]:
        """The labelled documents of each query, which need no judge."""
        return [{*one.positive, *one.negative} for one in self.queries]

    def judge_candidates(self, judge: Judge, negatives: int) -> list[JudgedCandidates]:
        """Judge the candidates until every query has its hard negatives."""
        texts = [one.text for one in self.queries]
        return judge_candidates(texts, self.documents, self.candidates, self.labelled, judge, negatives)


def run(config: Config, progress: Progress, *, dry_run: bool = False) -> Summary:
    """Write ``train.jsonl`` and ``train-data.json``; hard negatives are candidates that the vote finds irrelevant.

    Parameters
    ----------
    config : Config
    progress : callable
    dry_run : bool
        Send no requests; return the pairs to judge and their estimated cost.

    Raises
    ------
    CareError
        The configuration has no train-data, a judge or a file cannot be used, or a judge was abandoned.
    """
    if (settings := config.train_data) is None:
        raise CareError("the configuration has no train-data; add it with texts")
    output = config.output_file(TRIPLETS).parent
    if dry_run:
        return _dry_run(config, settings, progress)
    with _voting_judge(config, progress) as judge:
        report = make_train_data(settings, output, judge, redact=_redact(config), progress=progress)
    facts = {name: f"{count:,}" for name, count in report["counts"].items()}
    facts |= {f"rejected {name}": f"{count:,}" for name, count in sorted(report["unusable"].items())}
    warnings = []
    if settings.seeds >= report["counts"]["queries without near duplicates"]:
        warnings.append(
            f"all queries are among the {settings.seeds:,} seeds, so diversity selection had no effect; lower seeds"
        )
    if count := report["counts"]["pairs nobody could judge"]:
        warnings.append(f"{count} pairs lack a valid grade; they are neither positives nor negatives")
    return Summary({**facts}, files=[output / TRIPLETS, output / REPORT], warnings=warnings)


@contextmanager
def _voting_judge(config: Config, progress: Progress) -> Iterator[Judge]:
    """Return a judge that sends pairs to all configured judges, stores their answers and votes."""
    prompt = _prompt(config)
    with Store(config.output_file(FILE)) as store, exclusive_lock(config.output_file(LOCK)):
        for one in config.judges:
            store.check_model(one, prompt.version)

        def judge(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
            tasks = [_task(*pair) for pair in pairs]
            stopped = judge_all(config.judges, prompt, store, tasks, progress)
            if stopped:
                raise CareError(f"{next(iter(stopped.values()))}; answers are stored, run the step again")
            return _votes(config, prompt, store, tasks)

        yield judge


def _prompt(config: Config) -> Prompt:
    check_endpoints(config.judges, config.judging)
    prompt = load_prompt(config.judging.prompt, PLACEHOLDERS)
    # A version of its own: these pairs are counted apart from those of the judge step.
    return replace(prompt, version=f"{prompt.version}/train-data")


def _redact(config: Config) -> Callable[[str], str] | None:
    return redact if config.judging.redact else None


def _task(query: str, document: str) -> Task:
    texts = {"query": query, "document": document}
    return Task(Pair(digest(query), digest(document)), texts, digest(query, document))


def _votes(config: Config, prompt: Prompt, store: Store, tasks: Sequence[Task]) -> list[bool | None]:
    known = [store.grades(one.name, prompt.version) for one in config.judges]
    return [decide([grades.get(task.pair, ("", None))[1] for grades in known], config.vote) for task in tasks]


def _dry_run(config: Config, settings: TrainData, progress: Progress) -> Summary:
    """Return the pairs to judge: the fewest, if every unjudged candidate is irrelevant, and the most."""
    prompt = _prompt(config)
    prepared = _prepare(settings, config.output_file(TRIPLETS).parent, _redact(config), progress)
    pending: list[Task] = []
    with ExitStack() as stack:
        file = config.output_file(FILE)
        store = stack.enter_context(Store(file)) if file.is_file() else None
        if store is not None:
            for one in config.judges:
                store.check_model(one, prompt.version)

        def guess(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
            tasks = [_task(*pair) for pair in pairs]
            pending.extend(tasks)
            if store is None:
                return [False] * len(tasks)
            waiting = {t.pair for one in config.judges for t in pending_tasks(store, one, prompt, tasks)}
            votes = _votes(config, prompt, store, tasks)
            return [False if task.pair in waiting else vote for task, vote in zip(tasks, votes, strict=True)]

        if settings.negatives:
            prepared.judge_candidates(guess, settings.negatives)
        summary = dry_run_summary(config, prompt, store, pending)
    most = sum(
        len({*row.tolist()} - known - {-1})
        for row, known in zip(prepared.candidates, prepared.labelled, strict=True)
    )
    facts = {name: f"{count:,}" for name, count in prepared.counts.items()}
    facts["pairs at most"] = (
        f"{most if settings.negatives else 0:,}, if all candidates were relevant; the table has the minimum"
    )
    return replace(summary, facts={**facts, **summary.facts})


def make_train_data(
    settings: TrainData,
    output: Path,
    judge: Judge,
    *,
    redact: Callable[[str], str] | None = None,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write triplets in the format of ``care-accel train``, and a report with counts of each step.

    Parameters
    ----------
    settings : TrainData
    output : Path
        An existing folder for ``train.jsonl``, ``train-data.json`` and the cache of document vectors, readable by
        their owner only.
    judge : callable
        See `care_accel.curation.training_data.hard_negatives.judge_candidates`.
    redact : callable, optional
        Redacts personal data; applied while reading.
    progress : callable, optional

    Returns
    -------
    dict
        The report: texts left after each step.

    Raises
    ------
    CareError
        A file is missing or invalid (file and line are named), or no query is left.
    """
    prepared = _prepare(settings, output, redact, progress)
    queries, documents, counts = prepared.queries, prepared.documents, prepared.counts
    found = [JudgedCandidates() for _ in queries]
    if settings.negatives:
        found = prepared.judge_candidates(judge, settings.negatives)
    counts |= {
        "pairs judged no answer": sum(len(one.negatives) for one in found),
        "false negatives": sum(len(one.false_negatives) for one in found),
        "pairs nobody could judge": sum(len(one.undecided) for one in found),
    }
    rows = list(_triplets(queries, documents, found, settings))
    counts["triplets written"] = len(rows)
    counts["queries without an answer"] = len(queries) - len(rows)
    write_rows(output / TRIPLETS, rows)
    report = {"settings": asdict(settings), "counts": counts, "unusable": prepared.unusable}
    write_json(output / REPORT, report, private=True)
    return report


def _prepare(
    settings: TrainData, output: Path, redact: Callable[[str], str] | None, progress: Progress
) -> PreparedData:
    """Do all steps before judging."""
    reader = _Reader(redact)
    queries, documents = reader.read([Path(file) for file in settings.texts])
    counts: dict[str, int] = {"queries read": reader.queries, "queries usable": len(queries)}
    queries = _merge_duplicates(queries, find_exact_duplicates([one.text for one in queries]))
    counts["queries without exact duplicates"] = len(queries)
    near = find_near_duplicates([one.text for one in queries], settings.near_duplicates, progress=progress)
    queries = _merge_duplicates(queries, near.of)
    counts["queries without near duplicates"] = len(queries)
    counts["documents read"] = len(documents)
    documents, queries = _deduplicate_documents(documents, queries, settings.near_duplicates, progress)
    counts["documents without duplicates"] = len(documents)
    if not queries or not documents:
        raise CareError(
            f"{', '.join(map(str, settings.texts))}: no query or no document is left after cleaning; see the texts"
        )
    queries = _select_queries(queries, settings, progress)
    counts["queries unlike each other"] = len(queries)
    texts = [one.text for one in queries]
    model = settings.model
    with vector_cache(output / CACHE) as cache:
        candidates = fused_candidates(texts, documents, model, settings.depth, progress=progress, cache=cache)
        if settings.margin is not None:
            positives = [one.positive for one in queries]
            kept = drop_likely_positives(
                texts,
                documents,
                candidates,
                positives,
                model,
                settings.margin,
                progress=progress,
                cache=cache,
            )
            counts["candidates too near an answer"] = int((kept != candidates).sum())
            candidates = kept
    return PreparedData(queries, documents, candidates, counts, dict(reader.unusable))


class _Reader:
    """Reads files, cleans every text, and counts rejected ones."""

    def __init__(self, redact: Callable[[str], str] | None) -> None:
        self._redact = redact
        self._position: dict[str, int] = {}
        self.queries = 0
        self.unusable: Counter[str] = Counter()

    def read(self, files: Sequence[Path]) -> tuple[list[TrainingQuery], list[str]]:
        """Return the queries, and the documents that their positions refer to."""
        queries = []
        for file in files:
            for line, row in read_jsonl(file):
                if "query" not in row:
                    title = text_field(row, "title", file, line) if row.get("title") else ""
                    self._add(f"{title} {text_field(row, 'text', file, line)}".strip(), [])
                    continue
                self.queries += 1
                # Its documents are kept even if the query is rejected.
                one = TrainingQuery(self._clean(text_field(row, "query", file, line), "query") or "")
                for name, positions in (("pos", one.positive), ("neg", one.negative)):
                    for value in text_list_field(row, name, file, line) if name in row else []:
                        self._add(value, positions)
                if one.text:
                    queries.append(one)
        return queries, list(self._position)

    def _add(self, value: str, positions: list[int]) -> None:
        text = self._clean(value, "document")
        if text is not None:
            position = self._position.setdefault(text, len(self._position))
            if position not in positions:
                positions.append(position)

    def _clean(self, text: str, kind: str) -> str | None:
        text = clean_text(text, self._redact)
        if why := rejection_reason(text):
            self.unusable[f"{kind}: {why}"] += 1
            return None
        return text


def _merge_duplicates(queries: list[TrainingQuery], of: NDArray[np.int64]) -> list[TrainingQuery]:
    """Drop duplicate queries and add their labels to the one that is kept."""
    for one, first in zip(queries, of.tolist(), strict=True):
        if first >= 0:
            kept = queries[first]
            kept.positive = list(dict.fromkeys([*kept.positive, *one.positive]))
            kept.negative = list(dict.fromkeys([*kept.negative, *one.negative]))
    return [one for one, first in zip(queries, of.tolist(), strict=True) if first < 0]


def _deduplicate_documents(
    documents: list[str], queries: list[TrainingQuery], threshold: float, progress: Progress
) -> tuple[list[str], list[TrainingQuery]]:
    """Drop duplicate documents and map the queries' positions to the kept ones."""
    first = find_exact_duplicates(documents)
    once = np.flatnonzero(first < 0)
    near = find_near_duplicates([documents[i] for i in once], threshold, progress=progress)
    stays = np.where(near.of < 0, np.arange(len(once)), near.of)
    kept = np.flatnonzero(near.of < 0)
    # Maps old positions to kept ones: through exact, then through near duplicates.
    of_once = np.full(len(documents), -1, dtype=np.int64)
    of_once[once] = np.searchsorted(kept, stays)
    new = of_once[np.where(first < 0, np.arange(len(documents)), first)]
    for one in queries:
        one.positive = list(dict.fromkeys(int(new[i]) for i in one.positive))
        # A labelled negative that is a near duplicate of a positive is dropped.
        one.negative = [i for i in dict.fromkeys(int(new[i]) for i in one.negative) if i not in one.positive]
    return [documents[once[i]] for i in kept], queries


def _select_queries(
    queries: list[TrainingQuery], settings: TrainData, progress: Progress
) -> list[TrainingQuery]:
    """Select diverse queries in random order, and return them in their original order."""
    order = np.random.default_rng(settings.seed).permutation(len(queries))
    model = DualEncoder.from_pretrained(settings.model)
    vectors = np.empty((len(order), model.width), dtype=np.float32)
    with progress("encode queries", len(order)) as done:
        for start in range(0, len(order), _QUERY_BATCH):
            part = [queries[i].text for i in order[start : start + _QUERY_BATCH]]
            vectors[start : start + len(part)] = model.encode_query(part)
            done(len(part))
    selected = select_diverse(
        vectors,
        seeds=settings.seeds,
        neighbours=settings.neighbours,
        similarity=settings.similarity,
        progress=progress,
    )
    return [queries[i] for i in np.sort(order[selected])]


def _triplets(
    queries: list[TrainingQuery], documents: list[str], found: list[JudgedCandidates], settings: TrainData
) -> Iterator[dict[str, Any]]:
    for one, judged in zip(queries, found, strict=True):
        positive = [*one.positive, *(judged.false_negatives if settings.false_negatives == "add" else ())]
        # Labelled negatives come first: they were judged by people.
        negative = [*one.negative, *judged.negatives][: max(settings.negatives, len(one.negative))]
        if positive:
            yield {
                "query": one.text,
                "pos": [documents[i] for i in positive],
                "neg": [documents[i] for i in negative],
            }
