"""Grades all candidates with all judges: concurrently, resumable, every answer stored as it arrives."""

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
from care_accel.curation.judges.costs import COST_COLUMNS, estimate_costs
from care_accel.curation.judges.endpoints import check_endpoints
from care_accel.curation.judges.judge import (
    DEFAULT_ANSWER_TOKENS,
    Judge,
    JudgeUnavailable,
    Reply,
    estimate_tokens,
)
from care_accel.curation.judges.prompting import Prompt, load_prompt
from care_accel.curation.judges.store import FILE, Pair, Store, digest
from care_accel.curation.labels.candidates import FILE as CANDIDATES
from care_accel.curation.labels.candidates import read_pools
from care_accel.curation.steps import Progress, Summary
from care_accel.curation.texts.redact import redact_counted
from care_accel.errors import CareError, Stopped

PLACEHOLDERS = ("query", "document")
# After this many consecutive failures a judge is considered down; its remaining pairs stay pending.
MAX_CONSECUTIVE_FAILURES = 10
LOCK = "judge.lock"


@dataclass(frozen=True)
class Task:
    """A pair to be judged, with its texts as sent to judges.

    Attributes
    ----------
    pair : Pair
    texts : dict of str to str
        By placeholder of the prompt.
    hash : str
        `digest` of the texts.
    """

    pair: Pair
    texts: dict[str, str]
    hash: str


def load_tasks(config: Config) -> tuple[list[Task], dict[str, int]]:
    """Return every candidate with its redacted texts, and how often each kind of personal data was redacted.

    Raises
    ------
    CareError
        There are no candidates, or they do not match the data.
    """
    data = read_data(config)
    file = config.output_file(CANDIDATES)
    pools = read_pools(file)
    removed: dict[str, int] = {}
    seen: dict[str, str] = {}

    def redacted(text: str) -> str:
        if not config.judging.redact:
            return text
        if text not in seen:
            seen[text], counts = redact_counted(text)
            for tag, count in counts.items():
                removed[tag] = removed.get(tag, 0) + count
        return seen[text]

    tasks = []
    for pool in pools:
        if pool.query not in data.queries:
            raise CareError(
                f"{file}: query {pool.query!r} is not in the data; run care-accel curate candidates again"
            )
        for document in pool.documents:
            if document not in data.documents:
                raise CareError(
                    f"{file}: document {document!r} is not in the data; run care-accel curate candidates again"
                )
            texts = {
                "query": redacted(data.queries[pool.query]),
                "document": redacted(data.documents[document]),
            }
            tasks.append(Task(Pair(pool.query, document), texts, digest(*texts.values())))
    return tasks, removed


def run(config: Config, progress: Progress, *, dry_run: bool = False, again: bool = False) -> Summary:
    """Send every candidate to every judge that has not graded it.

    Parameters
    ----------
    config : Config
    progress : callable
    dry_run : bool
        Send no requests; return the pending pairs and their estimated cost.
    again : bool
        Also retry pairs whose answer could not be parsed.

    Raises
    ------
    CareError
        A judge, the prompt or the candidates cannot be used; no request was sent.
    """
    check_endpoints(config.judges, config.judging)
    prompt = load_prompt(config.judging.prompt, PLACEHOLDERS)
    if "grade" not in prompt.schema["properties"]:
        raise CareError(f"prompt {config.judging.prompt}: its answer is not a grade; set answer: grade")
    tasks, removed = load_tasks(config)
    store_file = config.output_file(FILE)
    if dry_run and not store_file.is_file():
        return dry_run_summary(config, prompt, None, tasks, again)
    with ExitStack() as stack:
        store = stack.enter_context(Store(store_file))
        for judge in config.judges:
            store.check_model(judge, prompt.version)
        if dry_run:
            return dry_run_summary(config, prompt, store, tasks, again)
        stack.enter_context(exclusive_lock(config.output_file(LOCK)))
        stopped = judge_all(config.judges, prompt, store, tasks, progress, again=again)
        return _summarise(config, prompt, store, tasks, removed, stopped)


@contextmanager
def exclusive_lock(file: Path) -> Iterator[None]:
    """Hold an exclusive file lock: two concurrent runs would pay for every pair twice.

    Raises
    ------
    CareError
        Another run holds it. The lock of a killed process is released by the system.
    """
    with file.open("a") as stream:
        file.chmod(0o600)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CareError(
                f"{file}: another run is sending requests to the judges; wait until it has ended"
            ) from None
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
    """Send every judge its pending tasks, and store each answer as it arrives.

    On Ctrl-C or SIGTERM no further request is sent and those in flight are awaited; a second signal cancels them.

    Returns
    -------
    dict of str to str
        By name, why a judge was abandoned with tasks pending.

    Raises
    ------
    Stopped
        A signal came.
    """
    left = {judge.name: pending_tasks(store, judge, prompt, tasks, again) for judge in judges}
    came: list[int] = []

    async def everything() -> dict[str, str]:
        stop = asyncio.Event()
        loop, this = asyncio.get_running_loop(), asyncio.current_task()
        assert this is not None

        def handle(number: int) -> None:
            came.append(number)
            this.cancel() if stop.is_set() else stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError, RuntimeError, NotImplementedError):  # only in the main thread
                loop.add_signal_handler(number, handle, number)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(Judge(judge)) for judge in judges]
            runs = [_judge(one, prompt, store, left[one.config.name], done, stop) for one in clients]
            reasons = await asyncio.gather(*runs)
        if came:
            raise Stopped(came[0])
        return {judge.name: reason for judge, reason in zip(judges, reasons, strict=True) if reason}

    with progress("judge", sum(map(len, left.values()))) as done:
        try:
            return asyncio.run(everything())
        except asyncio.CancelledError:
            raise Stopped(came[0]) if came else KeyboardInterrupt from None


def pending_tasks(
    store: Store | None, judge: JudgeConfig, prompt: Prompt, tasks: Sequence[Task], again: bool = False
) -> list[Task]:
    """Return the tasks that a judge has not graded with their present texts."""
    if store is None:
        return list(tasks)
    finished = store.finished(judge.name, prompt.version, again=again)
    left = [task for task in tasks if finished.get(task.pair) != task.hash]
    # Earlier failures come last: they may fail again.
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
    """Send one judge its tasks; return why it was abandoned, None if it was not."""
    waiting: Iterator[Task] = iter(tasks)
    failures = 0
    answered = store.totals([judge.config.name], prompt.version)[judge.config.name]["answered"] > 0
    reason: str | None = None

    async def worker() -> None:
        nonlocal failures, answered, reason
        for task in waiting:  # one iterator shared by all workers
            if stop.is_set() or reason is not None:
                return
            try:
                reply = await judge.ask(prompt.messages(task.texts), prompt.schema)
            except JudgeUnavailable as refusal:
                reason = str(refusal)
                return
            save_reply(store, judge.config, task, prompt, reply)
            done(1)
            answered = answered or reply.outcome != "unanswered"
            if reply.outcome != "unanswered":
                failures = 0
            elif not (answered and reply.refused):  # a content filter may reject single texts
                failures += 1
            if failures >= MAX_CONSECUTIVE_FAILURES:
                reason = f"judge {judge.config.name!r}: {failures} consecutive requests failed, the last: {reply.error}"

    await asyncio.gather(*(worker() for _ in range(judge.config.at_once)))
    return reason


def save_reply(store: Store, judge: JudgeConfig, task: Task, prompt: Prompt, reply: Reply) -> None:
    """Store an answer."""
    grade = None if reply.values is None else reply.values["grade"]
    store.add(judge, task.pair, prompt.version, task.hash, reply, grade)


def dry_run_summary(
    config: Config, prompt: Prompt, store: Store | None, tasks: Sequence[Task], again: bool = False
) -> Summary:
    """Return the pending tasks by judge and their estimated cost, without sending requests."""
    rows: list[Sequence[str]] = [("judge", "pairs pending", *COST_COLUMNS)]
    template = estimate_tokens(prompt.system + prompt.user)
    total = 0.0
    for judge in config.judges:
        left = pending_tasks(store, judge, prompt, tasks, again)
        tokens = sum(template + sum(map(estimate_tokens, task.texts.values())) for task in left)
        seen = None if store is None else store.mean_answer_tokens(judge.name, prompt.version)
        answers = round(len(left) * (DEFAULT_ANSWER_TOKENS if seen is None else seen))
        cost, cells = estimate_costs(judge, len(left), tokens, answers)
        total += cost
        rows.append((judge.name, f"{len(left):,}", *cells))
    how = (
        "one token per Chinese character and one per four others; answers as long as those so far, "
        f"{DEFAULT_ANSWER_TOKENS} tokens before the first; minutes from the rate limits only"
    )
    lengths = fmean(len(task.texts["document"]) for task in tasks) if tasks else 0.0
    facts: dict[str, object] = {
        "pairs": f"{len(tasks):,}",
        "characters per document": f"{lengths:.0f}",
        "prompt": prompt.version,
        "total cost": f"{total:.2f}",
        "estimated by": how,
    }
    return Summary(facts, table=rows)


def _summarise(
    config: Config,
    prompt: Prompt,
    store: Store,
    tasks: Sequence[Task],
    removed: dict[str, int],
    stopped: dict[str, str],
) -> Summary:
    totals = store.totals([judge.name for judge in config.judges], prompt.version)
    rows: list[Sequence[str]] = [
        ("judge", "graded", "unreadable", "no answer", "pending", "tokens in", "tokens out", "cost")
    ]
    missing = 0
    for judge in config.judges:
        one = totals[judge.name]
        left = len(pending_tasks(store, judge, prompt, tasks))
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
    tags = ", ".join(f"{tag} {count}" for tag, count in sorted(removed.items())) or "none"
    facts: dict[str, object] = {
        "pairs": f"{len(tasks):,}",
        "prompt": prompt.version,
        "personal data redacted": tags if config.judging.redact else "no: redact is false",
    }
    warnings = list(stopped.values())
    if missing:
        warnings.append(
            f"{missing} judgements are missing; run the same command again to retry failed requests, with --again also "
            "unreadable answers"
        )
    return Summary(facts, rows, [store.file], warnings, failed=missing > 0)
