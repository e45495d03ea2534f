"""All pairs to all judges: several at once, every answer kept as it comes, going on where a run was stopped."""

from __future__ import annotations

import asyncio
import fcntl
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from care_accel.curation.config import Config, JudgeConfig
from care_accel.curation.data import read_data
from care_accel.curation.judges.costs import COSTS, estimate_costs
from care_accel.curation.judges.endpoints import check_endpoints
from care_accel.curation.judges.judge import ANSWER_TOKENS, Judge, JudgeStopped, Reply, estimate_tokens
from care_accel.curation.judges.prompting import Prompt, load_prompt
from care_accel.curation.judges.store import FILE, Pair, Store, digest
from care_accel.curation.labels.candidates import FILE as CANDIDATES
from care_accel.curation.labels.candidates import read_pools
from care_accel.curation.steps import Progress, Summary
from care_accel.curation.texts.redact import redact_counted
from care_accel.errors import CareError

PLACES = ("query", "document")
# A judge that fails so often in a row is down: its other pairs are left for another run.
MOST_FAILURES = 10
LOCK = "judge.lock"


@dataclass(frozen=True)
class Task:
    """A pair to be judged, with its texts as judges see them.

    Attributes
    ----------
    pair : Pair
    texts : dict of str to str
        By the places of the prompt.
    hash : str
        Of the texts.
    """

    pair: Pair
    texts: dict[str, str]
    hash: str


def load_tasks(config: Config) -> tuple[list[Task], dict[str, int]]:
    """Return every candidate with its texts, personal data removed, and how often which kind was.

    Raises
    ------
    CareError
        There are no candidates, or they are of other data.
    """
    data = read_data(config)
    file = config.output_file(CANDIDATES)
    pools = read_pools(file)
    removed: dict[str, int] = {}
    seen: dict[str, str] = {}

    def shown(text: str) -> str:
        if not config.judging.redact:
            return text
        if text not in seen:
            seen[text], counts = redact_counted(text)
            for mark, count in counts.items():
                removed[mark] = removed.get(mark, 0) + count
        return seen[text]

    tasks = []
    for pool in pools:
        if pool.query not in data.queries:
            raise CareError(f"{file}: query {pool.query!r} is not in the data; make the candidates anew")
        for document in pool.documents:
            if document not in data.documents:
                raise CareError(f"{file}: document {document!r} is not in the data; make the candidates anew")
            texts = {"query": shown(data.queries[pool.query]), "document": shown(data.documents[document])}
            tasks.append(Task(Pair(pool.query, document), texts, digest(*texts.values())))
    return tasks, removed


def run(config: Config, progress: Progress, *, dry_run: bool = False, again: bool = False) -> Summary:
    """Ask every judge about every candidate that it has not judged.

    Parameters
    ----------
    config : Config
    progress : callable
    dry_run : bool
        Ask nobody; tell how many pairs are left, and about what they would take.
    again : bool
        Ask again where an answer could not be read.

    Raises
    ------
    CareError
        A judge, the prompt or the candidates cannot be used; nothing was asked.
    """
    check_endpoints(config.judges, config.judging)
    prompt = load_prompt(config.judging.prompt, PLACES)
    if "grade" not in prompt.schema["properties"]:
        raise CareError(f"prompt {config.judging.prompt}: answer is no grade; relevance is judged by one")
    tasks, removed = load_tasks(config)
    store_file = config.output_file(FILE)
    if dry_run and not store_file.is_file():
        return plan(config, prompt, None, tasks, again)
    with ExitStack() as stack:
        store = stack.enter_context(Store(store_file))
        for judge in config.judges:
            store.check_model(judge, prompt.version)
        if dry_run:
            return plan(config, prompt, store, tasks, again)
        stack.enter_context(alone(config.output_file(LOCK)))
        stopped = judge_all(config.judges, prompt, store, tasks, progress, again=again)
        return _told(config, prompt, store, tasks, removed, stopped)


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Let one run at a time ask: two at once would pay for every pair twice.

    Raises
    ------
    CareError
        Another run is asking. A process that was killed holds nothing.
    """
    with file.open("a") as stream:
        file.chmod(0o600)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CareError(f"{file}: another run is asking the judges; wait until it has ended") from None
        yield


def judge_all(
    judges: Sequence[JudgeConfig],
    prompt: Prompt,
    store: Store,
    tasks: Sequence[Task],
    progress: Progress,
    *,
    again: bool = False,
) -> dict[str, str]:
    """Ask every judge for a grade of every task that it has not graded, and keep each answer as it comes.

    Ctrl-C and SIGTERM let no further request begin, and wait for those under way; a second one does not wait.

    Returns
    -------
    dict of str to str
        By name, why a judge was given up before it was asked about everything.
    """
    left = {judge.name: left_of(store, judge, prompt, tasks, again) for judge in judges}

    async def everything() -> dict[str, str]:
        stop = asyncio.Event()
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        assert this is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(
                ValueError, RuntimeError, NotImplementedError
            ):  # not in a thread beside the main one
                loop.add_signal_handler(number, lambda: this.cancel() if stop.is_set() else stop.set())
        async with AsyncExitStack() as stack:
            asked = [await stack.enter_async_context(Judge(judge)) for judge in judges]
            runs = [_judge(one, prompt, store, left[one.config.name], done, stop) for one in asked]
            reasons = await asyncio.gather(*runs)
        if stop.is_set():
            raise KeyboardInterrupt
        return {judge.name: reason for judge, reason in zip(judges, reasons, strict=True) if reason}

    with progress("judge", sum(map(len, left.values()))) as done:
        try:
            return asyncio.run(everything())
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


def left_of(
    store: Store | None, judge: JudgeConfig, prompt: Prompt, tasks: Sequence[Task], again: bool = False
) -> list[Task]:
    """Return what a judge has not judged, in these very words."""
    if store is None:
        return list(tasks)
    finished = store.finished(judge.name, prompt.version, again=again)
    left = [task for task in tasks if finished.get(task.pair) != task.hash]
    # What failed before comes last: it may fail again, and others need not wait for that.
    failed = store.unanswered(judge.name, prompt.version)
    return sorted(left, key=lambda task: task.pair in failed)


async def _judge(
    judge: Judge,
    prompt: Prompt,
    store: Store,
    tasks: Sequence[Task],
    done: Callable[[int], None],
    stop: asyncio.Event,
) -> str | None:
    """Let one judge work through its tasks; return why it was given up, None if it was not."""
    waiting: Iterator[Task] = iter(tasks)
    failures = 0
    answered = store.totals([judge.config.name], prompt.version)[judge.config.name]["answered"] > 0
    reason: str | None = None

    async def worker() -> None:
        nonlocal failures, answered, reason
        for task in waiting:  # shared: each task is taken once
            if stop.is_set() or reason is not None:
                return
            try:
                reply = await judge.ask(prompt.messages(task.texts), prompt.schema)
            except JudgeStopped as refusal:
                reason = str(refusal)
                return
            keep(store, judge.config, task, prompt, reply)
            done(1)
            answered = answered or reply.outcome != "unanswered"
            if reply.outcome != "unanswered":
                failures = 0
            elif not (answered and reply.refused):  # one that answers may refuse some texts for what they say
                failures += 1
            if failures >= MOST_FAILURES:
                reason = f"judge {judge.config.name!r}: {failures} requests in a row failed, the last with: {reply.error}"

    await asyncio.gather(*(worker() for _ in range(judge.config.at_once)))
    return reason


def keep(store: Store, judge: JudgeConfig, task: Task, prompt: Prompt, reply: Reply) -> None:
    """Write an answer into the store."""
    grade = None if reply.values is None else reply.values["grade"]
    store.add(judge, task.pair, prompt.version, task.hash, reply, grade)


def plan(
    config: Config, prompt: Prompt, store: Store | None, tasks: Sequence[Task], again: bool = False
) -> Summary:
    """Tell what is left of some tasks, by judge, and about what it would take; nobody is asked."""
    rows: list[Sequence[str]] = [("judge", "pairs left", *COSTS)]
    words = estimate_tokens(prompt.system + prompt.user)
    total = 0.0
    for judge in config.judges:
        left = left_of(store, judge, prompt, tasks, again)
        tokens = sum(words + sum(map(estimate_tokens, task.texts.values())) for task in left)
        seen = None if store is None else store.mean_answer_tokens(judge.name, prompt.version)
        answers = round(len(left) * (ANSWER_TOKENS if seen is None else seen))
        cost, cells = estimate_costs(judge, len(left), tokens, answers)
        total += cost
        rows.append((judge.name, f"{len(left):,}", *cells))
    how = (
        "estimates: one token a Chinese character and one for four others; "
        f"answers as long as those so far, {ANSWER_TOKENS} tokens before the first; minutes by the limits alone"
    )
    lengths = fmean(len(task.texts["document"]) for task in tasks) if tasks else 0.0
    facts: dict[str, object] = {
        "pairs": f"{len(tasks):,}",
        "characters a document": f"{lengths:.0f}",
        "prompt": prompt.version,
        "cost in all": f"{total:.2f}",
        "how": how,
    }
    return Summary(facts, table=rows)


def _told(
    config: Config,
    prompt: Prompt,
    store: Store,
    tasks: Sequence[Task],
    removed: dict[str, int],
    stopped: dict[str, str],
) -> Summary:
    totals = store.totals([judge.name for judge in config.judges], prompt.version)
    rows: list[Sequence[str]] = [
        ("judge", "graded", "unreadable", "no answer", "left", "tokens in", "tokens out", "cost")
    ]
    missing = 0
    for judge in config.judges:
        one = totals[judge.name]
        left = len(left_of(store, judge, prompt, tasks))
        missing += left + int(one["unreadable"])
        counts = (
            one["answered"],
            one["unreadable"],
            one["unanswered"],
            left,
            one["tokens_in"],
            one["tokens_out"],
        )
        rows.append((judge.name, *(f"{count:,}" for count in counts), f"{one['cost']:.2f}"))
    marks = ", ".join(f"{mark} {count}" for mark, count in sorted(removed.items())) or "nothing"
    facts: dict[str, object] = {
        "pairs": f"{len(tasks):,}",
        "prompt": prompt.version,
        "personal data removed": marks if config.judging.redact else "no: redact is false",
    }
    warnings = list(stopped.values())
    if missing:
        warnings.append(
            f"{missing} judgements are missing; the same command asks for those without an answer, --again for those "
            "that could not be read"
        )
    return Summary(facts, rows, [store.file], warnings, failed=missing > 0)
