"""From questions and documents to triplets: cleaned, each once, unlike each other, with judged hard negatives."""

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
from care_accel.curation.labels.judging import LOCK, PLACES, Task, alone, judge_all, left_of, plan
from care_accel.curation.labels.vote import decide
from care_accel.curation.steps import Progress, Summary, silent
from care_accel.curation.texts.clean import clean_text, why_unusable
from care_accel.curation.texts.diversity import select_diverse
from care_accel.curation.texts.duplicates import find_exact_duplicates, find_near_duplicates
from care_accel.curation.texts.redact import redact
from care_accel.curation.training_data.hard_negatives import (
    Judge,
    Separated,
    below_answers,
    fused_candidates,
    separate,
)
from care_accel.encoding import DualEncoder
from care_accel.errors import CareError
from care_accel.files import read_jsonl, text_field, text_list_field, write_json

TRIPLETS = "train.jsonl"
REPORT = "train-data.json"
_QUERIES_AT_ONCE = 1024


@dataclass
class Question:
    """A query, and positions of the documents that are known to answer it or not to."""

    text: str
    positive: list[int] = field(default_factory=list)
    negative: list[int] = field(default_factory=list)


@dataclass
class Prepared:
    """What is judged.

    Attributes
    ----------
    questions : list of Question
    documents : list of str
    candidates : numpy.ndarray
        int64 ``[n, depth]``: positions of each question's documents, best first; -1 for none.
    counts, unusable : dict of str to int
        How many texts each step has left, and why others could not be used.
    """

    questions: list[Question]
    documents: list[str]
    candidates: NDArray[np.int64]
    counts: dict[str, int]
    unusable: dict[str, int]

    @property
    def known(self) -> list[set[int]]:
        """Return the documents that each question needs no judge for."""
        return [{*one.positive, *one.negative} for one in self.questions]


def run(config: Config, progress: Progress, *, dry_run: bool = False) -> Summary:
    """Write ``train.jsonl`` and ``train-data.json``; hard negatives are those that the judges vote to be no answers.

    Parameters
    ----------
    config : Config
    progress : callable
    dry_run : bool
        Ask nobody; tell how many pairs would be judged, and about what they would take.

    Raises
    ------
    CareError
        The configuration has no train-data, a judge or a file cannot be used, or a judge had to be given up.
    """
    if (settings := config.train_data) is None:
        raise CareError("the configuration has no train-data; give it texts")
    output = config.output_file(TRIPLETS).parent
    if dry_run:
        return _plan(config, settings, progress)
    with _voting(config, progress) as judge:
        report = make_train_data(settings, output, judge, redact=_redact(config), progress=progress)
    facts = {name: f"{count:,}" for name, count in report["counts"].items()}
    facts |= {f"unusable {name}": f"{count:,}" for name, count in sorted(report["unusable"].items())}
    warnings = []
    if settings.seeds >= report["counts"]["queries without near duplicates"]:
        warnings.append(
            f"all queries are among the {settings.seeds:,} seeds: none was compared with the others"
        )
    if count := report["counts"]["pairs nobody could judge"]:
        warnings.append(
            f"{count} pairs lack a grade that can be read; they are neither answers nor negatives"
        )
    return Summary({**facts}, files=[output / TRIPLETS, output / REPORT], warnings=warnings)


@contextmanager
def _voting(config: Config, progress: Progress) -> Iterator[Judge]:
    """Give a judge that asks all judges of the configuration, keeps their answers, and lets them vote."""
    prompt = _prompt(config)
    with Store(config.output_file(FILE)) as store, alone(config.output_file(LOCK)):
        for one in config.judges:
            store.check_model(one, prompt.version)

        def judge(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
            tasks = [_task(*pair) for pair in pairs]
            stopped = judge_all(config.judges, prompt, store, tasks, progress)
            if stopped:
                raise CareError(
                    f"{next(iter(stopped.values()))}; what was answered is kept, run the step again"
                )
            return _votes(config, prompt, store, tasks)

        yield judge


def _prompt(config: Config) -> Prompt:
    check_endpoints(config.judges, config.judging)
    prompt = load_prompt(config.judging.prompt, PLACES)
    # Pairs of other texts than the candidates': counted apart from these.
    return replace(prompt, version=f"{prompt.version}/train-data")


def _redact(config: Config) -> Callable[[str], str] | None:
    return redact if config.judging.redact else None


def _task(query: str, document: str) -> Task:
    texts = {"query": query, "document": document}
    return Task(Pair(digest(query), digest(document)), texts, digest(query, document))


def _votes(config: Config, prompt: Prompt, store: Store, tasks: Sequence[Task]) -> list[bool | None]:
    known = [store.grades(one.name, prompt.version) for one in config.judges]
    return [decide([grades.get(task.pair, ("", None))[1] for grades in known], config.vote) for task in tasks]


def _plan(config: Config, settings: TrainData, progress: Progress) -> Summary:
    """Tell what judging would take if each candidate that nobody judged turned out to be no answer, and at most."""
    prompt = _prompt(config)
    output = config.output_file(TRIPLETS).parent
    prepared = _prepare(settings, output, _redact(config), progress)
    asked: list[Task] = []
    with ExitStack() as stack:
        file = config.output_file(FILE)
        store = stack.enter_context(Store(file)) if file.is_file() else None
        if store is not None:
            for one in config.judges:
                store.check_model(one, prompt.version)

        def guess(pairs: Sequence[tuple[str, str]]) -> list[bool | None]:
            tasks = [_task(*pair) for pair in pairs]
            asked.extend(tasks)
            if store is None:
                return [False] * len(tasks)
            waiting = {task.pair for one in config.judges for task in left_of(store, one, prompt, tasks)}
            votes = _votes(config, prompt, store, tasks)
            return [False if task.pair in waiting else vote for task, vote in zip(tasks, votes, strict=True)]

        if settings.negatives:
            queries = [one.text for one in prepared.questions]
            separate(
                queries, prepared.documents, prepared.candidates, prepared.known, guess, settings.negatives
            )
        summary = plan(config, prompt, store, asked)
    most = sum(
        len({*row.tolist()} - known - {-1})
        for row, known in zip(prepared.candidates, prepared.known, strict=True)
    )
    facts = {name: f"{count:,}" for name, count in prepared.counts.items()}
    facts["pairs at most"] = (
        f"{most if settings.negatives else 0:,}, if all candidates were answers; the table has the fewest"
    )
    return replace(summary, facts={**facts, **summary.facts})


def make_train_data(
    settings: TrainData,
    output: Path,
    judge: Judge,
    *,
    redact: Callable[[str], str] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write triplets in the format of ``care-accel train``, and a report of what happened to every text.

    Parameters
    ----------
    settings : TrainData
    output : Path
        A folder that is there; ``train.jsonl``, ``train-data.json`` and the documents' vectors, which another
        run needs not compute again, are written to it, for their owner only.
    judge : callable
        See `care_accel.curation.training_data.hard_negatives.separate`.
    redact : callable, optional
        Takes personal data out of a text, before anything else sees it.
    progress : callable, optional

    Returns
    -------
    dict
        The report: how many texts each step has left.

    Raises
    ------
    CareError
        A file is missing or broken (file and line are named), or no query is left.
    """
    prepared = _prepare(settings, output, redact, progress)
    questions, documents, counts = prepared.questions, prepared.documents, prepared.counts
    found = [Separated() for _ in questions]
    if settings.negatives:
        queries = [one.text for one in questions]
        found = separate(queries, documents, prepared.candidates, prepared.known, judge, settings.negatives)
    counts |= {
        "pairs judged no answer": sum(len(one.negatives) for one in found),
        "false negatives": sum(len(one.false_negatives) for one in found),
        "pairs nobody could judge": sum(len(one.undecided) for one in found),
    }
    rows = list(_triplets(questions, documents, found, settings))
    counts["triplets written"] = len(rows)
    counts["queries without an answer"] = len(questions) - len(rows)
    write_rows(output / TRIPLETS, rows)
    report = {"settings": asdict(settings), "counts": counts, "unusable": prepared.unusable}
    write_json(output / REPORT, report, private=True)
    return report


def _prepare(
    settings: TrainData, output: Path, redact: Callable[[str], str] | None, progress: Progress
) -> Prepared:
    """Do all that needs no judge."""
    reader = _Reader(redact)
    questions, documents = reader.read([Path(file) for file in settings.texts])
    counts: dict[str, int] = {"queries read": reader.queries, "queries usable": len(questions)}
    questions = _merge_repeated(questions)
    counts["queries without exact duplicates"] = len(questions)
    near = find_near_duplicates([one.text for one in questions], settings.near_duplicates, progress=progress)
    questions = _merge_near(questions, near.of)
    counts["queries without near duplicates"] = len(questions)
    counts["documents read"] = len(documents)
    documents, questions = _one_of_each(documents, questions, settings.near_duplicates, progress)
    counts["documents without duplicates"] = len(documents)
    if not questions or not documents:
        raise CareError(
            f"{', '.join(map(str, settings.texts))}: no query or no document is left to make training data from"
        )
    questions = _unlike(questions, settings, progress)
    counts["queries unlike each other"] = len(questions)
    queries = [one.text for one in questions]
    model = settings.model
    with vector_cache(output / CACHE) as cache:
        candidates = fused_candidates(
            queries, documents, model, settings.depth, progress=progress, cache=cache
        )
        if settings.margin is not None:
            answers = [one.positive for one in questions]
            kept = below_answers(
                queries,
                documents,
                candidates,
                answers,
                model,
                settings.margin,
                progress=progress,
                cache=cache,
            )
            counts["candidates too near an answer"] = int((kept != candidates).sum())
            candidates = kept
    return Prepared(questions, documents, candidates, counts, dict(reader.unusable))


class _Reader:
    """Reads files, cleans every text, and counts what cannot be used."""

    def __init__(self, redact: Callable[[str], str] | None) -> None:
        self._redact = redact
        self._place: dict[str, int] = {}
        self.queries = 0
        self.unusable: Counter[str] = Counter()

    def read(self, files: Sequence[Path]) -> tuple[list[Question], list[str]]:
        """Return questions, and the documents that they name by position."""
        questions = []
        for file in files:
            for line, row in read_jsonl(file):
                if "query" not in row:
                    title = text_field(row, "title", file, line) if row.get("title") else ""
                    self._add(f"{title} {text_field(row, 'text', file, line)}".strip(), [])
                    continue
                self.queries += 1
                # Its documents are documents, whatever becomes of it.
                one = Question(self._clean(text_field(row, "query", file, line), "query") or "")
                for name, places in (("pos", one.positive), ("neg", one.negative)):
                    for value in text_list_field(row, name, file, line) if name in row else []:
                        self._add(value, places)
                if one.text:
                    questions.append(one)
        return questions, list(self._place)

    def _add(self, value: str, places: list[int]) -> None:
        text = self._clean(value, "document")
        if text is not None:
            place = self._place.setdefault(text, len(self._place))
            if place not in places:
                places.append(place)

    def _clean(self, text: str, kind: str) -> str | None:
        text = clean_text(text, self._redact)
        if why := why_unusable(text):
            self.unusable[f"{kind}: {why}"] += 1
            return None
        return text


def _merge_repeated(questions: list[Question]) -> list[Question]:
    return _merge_near(questions, find_exact_duplicates([one.text for one in questions]))


def _merge_near(questions: list[Question], of: NDArray[np.int64]) -> list[Question]:
    """Leave out repeated questions; what is known of them is known of the one that stays."""
    for one, first in zip(questions, of.tolist(), strict=True):
        if first >= 0:
            kept = questions[first]
            kept.positive = list(dict.fromkeys([*kept.positive, *one.positive]))
            kept.negative = list(dict.fromkeys([*kept.negative, *one.negative]))
    return [one for one, first in zip(questions, of.tolist(), strict=True) if first < 0]


def _one_of_each(
    documents: list[str], questions: list[Question], threshold: float, progress: Progress
) -> tuple[list[str], list[Question]]:
    """Leave one of documents that are alike; questions then name that one."""
    first = find_exact_duplicates(documents)
    once = np.flatnonzero(first < 0)
    near = find_near_duplicates([documents[i] for i in once], threshold, progress=progress)
    stays = np.where(near.of < 0, np.arange(len(once)), near.of)
    kept = np.flatnonzero(near.of < 0)
    # From a document's old position to the one that stays for it: over exact, then over near duplicates.
    of_once = np.full(len(documents), -1, dtype=np.int64)
    of_once[once] = np.searchsorted(kept, stays)
    new = of_once[np.where(first < 0, np.arange(len(documents)), first)]
    for one in questions:
        one.positive = list(dict.fromkeys(int(new[i]) for i in one.positive))
        # What is said to be no answer and is nearly the answer is left out of both training and judging.
        one.negative = [i for i in dict.fromkeys(int(new[i]) for i in one.negative) if i not in one.positive]
    return [documents[once[i]] for i in kept], questions


def _unlike(questions: list[Question], settings: TrainData, progress: Progress) -> list[Question]:
    """Select questions that are unlike each other, in a random order, and return them in their own."""
    order = np.random.default_rng(settings.seed).permutation(len(questions))
    model = DualEncoder.from_pretrained(settings.model)
    vectors = np.empty((len(order), model.width), dtype=np.float32)
    with progress("encode queries", len(order)) as done:
        for start in range(0, len(order), _QUERIES_AT_ONCE):
            part = [questions[i].text for i in order[start : start + _QUERIES_AT_ONCE]]
            vectors[start : start + len(part)] = model.encode_query(part)
            done(len(part))
    selected = select_diverse(
        vectors,
        seeds=settings.seeds,
        neighbours=settings.neighbours,
        similarity=settings.similarity,
        progress=progress,
    )
    return [questions[i] for i in np.sort(order[selected])]


def _triplets(
    questions: list[Question], documents: list[str], found: list[Separated], settings: TrainData
) -> Iterator[dict[str, Any]]:
    for one, separated in zip(questions, found, strict=True):
        positive = [*one.positive, *(separated.false_negatives if settings.false_negatives == "add" else ())]
        # Labelled negatives come first: people have seen them.
        negative = [*one.negative, *separated.negatives][: max(settings.negatives, len(one.negative))]
        if positive:
            yield {
                "query": one.text,
                "pos": [documents[i] for i in positive],
                "neg": [documents[i] for i in negative],
            }
