"""Encoding on Ray nodes of this machine, of one core each, beside `index` by one process; and with a worker that is killed.

Nodes of one machine show what is lost, not throughput: each worker gets one thread, and what the driver and Ray take comes out
of the same cores. It needs the extra cluster.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from time import perf_counter

import pytest

pytest.importorskip("ray", reason="needs the extra cluster: make cluster")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "cluster" / "support"))
from nodes import cluster_of_this_machine

from bench.inputs import mini
from care_accel import Collection, DualEncoder
from care_accel.cluster import encode_corpus
from care_accel.collection.sources import read_documents

DOCUMENTS = {"smoke": 60, "default": 20_000, "full": 20_000}
ALONE = "index, one process of one thread"
ENGINES = {ALONE: None, "parts in one process": 0, "1 worker": 1, "2 workers": 2, "2 workers, one killed": 2}
KILLED = "2 workers, one killed"


def pytest_generate_tests(metafunc):
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", ENGINES)


@pytest.fixture(scope="module")
def nodes():
    with cluster_of_this_machine() as address:
        yield address


@pytest.fixture
def corpus(bench_size, cached):
    """Return a file of real titles, and the rows that it has."""

    def write():
        ids, texts = titles(DOCUMENTS[bench_size])
        folder = Path(tempfile.mkdtemp(prefix="bench-cluster-"))
        file = folder / "documents.jsonl"
        lines = (
            json.dumps({"id": name, "text": text}, ensure_ascii=False)
            for name, text in zip(ids, texts, strict=True)
        )
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return Written(file, len(ids))

    return cached("encoding", "corpus", write)


class Written:
    """A file, and its folder that is removed with this object."""

    def __init__(self, file: Path, documents: int) -> None:
        self.file, self.documents = file, documents

    def __del__(self) -> None:
        shutil.rmtree(self.file.parent, ignore_errors=True)


def titles(most):
    rows = mini.ranking()[1]
    documents = mini.documents_of(rows)
    return list(rows.documents)[:most], documents[:most]


def model():
    """Return care-mini in int8, whose documents take one thread."""
    made = DualEncoder.from_pretrained("care-mini", dtype="int8")
    made.encoder("document").runtime.threads = 1
    return made


class ProcessorTime(threading.Thread):
    """Processor time of this process and of all below it, with the last known one of those that end, while it is open."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}

    def _sample(self) -> None:
        import psutil

        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._last[process.pid] = times.user + times.system

    def run(self) -> None:
        while not self._ended.wait(0.5):
            self._sample()

    def __enter__(self) -> ProcessorTime:
        self._sample()
        self._first = dict(self._last)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()
        self._sample()

    @property
    def seconds(self) -> float:
        return sum(self._last.values()) - sum(self._first.values())


def events(log):
    """Return the events so far; the last line may not be whole yet."""
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def kill_one(happened):
    """Kill a worker once a third of the parts is done; return whether it was."""
    parts = [event for event in happened if event["event"] == "part"]
    if not parts or 3 * len(parts) < happened[0]["parts"]:
        return False
    workers = [event["worker"] for event in happened if event["event"] == "worker"]
    os.kill(int(workers[-1].rpartition(":")[2]), signal.SIGKILL)
    return True


def about(log, deaths):
    """Return what the events of a run say of its time."""
    happened = events(log)
    parts = [event for event in happened if event["event"] == "part"]
    if not parts:
        return ""
    ready = next((event["time"] for event in happened if event["event"] == "worker"), happened[0]["time"])
    work, span = sum(event["seconds"] for event in parts), happened[-1]["time"] - ready
    died = f", {deaths} died" if deaths else ""
    return (
        f"; {len(parts)} parts of {work:.1f} worker-seconds in {span:.1f} s, begun after "
        f"{ready - happened[0]['time']:.1f} s{died}"
    )


def encode(engine, collection, corpus, nodes, log):
    if ENGINES[engine] is None:
        done = collection.upsert(read_documents([corpus.file]))
        return done, 0
    ended = threading.Event()

    def watch():
        while not ended.wait(0.5):
            if kill_one(events(log)):
                return

    with ExitStack() as stack:
        if engine == KILLED:
            thread = threading.Thread(target=watch, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(ended.set)
        workers = ENGINES[engine]
        done = encode_corpus(
            corpus.file,
            collection,
            cluster=nodes if workers else "none",
            workers=workers or None,
            json_log=log,
            show=lambda line: None,
        )
    return done, done.deaths


def test_encoding(measure, corpus, nodes, engine, tmp_path):
    collection = Collection.create(tmp_path / "collection", model())
    found, spent = [], []

    def run():
        begun = perf_counter()
        with ProcessorTime() as used:
            found[:] = encode(engine, collection, corpus, nodes, tmp_path / "log.jsonl")
            lasted = perf_counter() - begun
        spent[:] = [used.seconds]
        return [lasted]

    measure.once(
        run,
        group=f"encoding {corpus.documents:,} titles",
        name=engine,
        ours=engine == "1 worker",
        parameters={"documents": corpus.documents, "threads": max(1, ENGINES[engine] or 1)},
    )
    done, deaths = found
    assert len(collection) == corpus.documents
    assert not getattr(done, "set_aside", None)
    # In the smoke size it may be done before the worker is killed.
    assert deaths == (engine == KILLED) or corpus.documents < 1_000
    if not measure.disabled:
        seconds = measure.benchmark.stats.stats.median
        measure.note(
            rate=corpus.documents / seconds,
            note=f"{spent[0]:.1f} s of processor time{about(tmp_path / 'log.jsonl', deaths)}",
        )
