"""What a writer counts; several writers, and writers that are killed."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from care_accel import CareError, Collection
from care_accel.collection import writing

KILLS = int(os.environ.get("CARE_KILLS", "4"))

# Changes a collection for ever; texts are those of a counter, so that every form of a document can be told.
WORKER = """
import random, sys
from care_accel import Collection
uri, seed = sys.argv[1], int(sys.argv[2])
r = random.Random(seed)
c = Collection.open(uri)
c.model.encode_document(["warm"])
print("ready", flush=True)
while True:
    n = r.randrange(10**6)
    some = r.sample(range(60), 12)
    what = r.random()
    if what < 0.7:
        c.upsert([{"id": f"d{i}", "title": f"t{n}", "text": f"第{n}稿。" * r.randrange(1, 6), "draft": n} for i in some])
    elif what < 0.85:
        c.delete([f"d{i}" for i in some[:4]])
    else:
        c.compact(keep_days=r.choice([0.0, 7.0]))
        c.search("稿")
"""


def check(uri):
    """Every document is there once and is one draft, whole."""
    opened = Collection.open(uri)
    found = opened.verify(encode=2)
    assert found.ok, found.problems
    for row in opened.get([f"d{i}" for i in range(250)]):
        if row is not None and row["title"]:
            assert row["title"] == f"t{row['draft']}"
            assert set(row["text"].split("。")[:-1]) == {f"第{row['draft']}稿"}
    return opened


@pytest.mark.slow
@pytest.mark.parametrize("chunking", [{}, {"chunk_tokens": 8}], ids=["whole", "chunks"])
def test_a_writer_that_is_killed_leaves_every_document_once_or_not_at_all(model, tmp_path, chunking):
    uri = tmp_path / "c"
    made = Collection.create(uri, model, **chunking)
    made.upsert([{"id": f"d{i}", "text": "最初"} for i in range(60)])
    delays = random.Random(7)
    for kill in range(-(-KILLS // 2)):
        worker = subprocess.Popen([sys.executable, "-c", WORKER, str(uri), str(kill)], stdout=subprocess.PIPE)
        try:
            assert worker.stdout.readline() == b"ready\n"
            time.sleep(delays.uniform(0.05, 0.6))
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            worker.stdout.close()
        check(uri)
    # And the next run completes.
    rows = [{"id": f"d{i}", "title": "t1", "text": "第1稿。", "draft": 1} for i in range(60)]
    again = Collection.open(uri)
    again.upsert(rows)
    assert len(check(uri)) == 60
    assert again.upsert(rows).same == 60


@pytest.mark.slow
def test_an_index_command_that_is_killed_goes_on_where_it_was(model, tmp_path):
    uri, file, delays = tmp_path / "c", tmp_path / "rows.jsonl", random.Random(11)
    Collection.create(uri, model, chunk_tokens=8)
    command = [sys.executable, "-c", "from care_accel.cli import main; raise SystemExit(main())", "index"]
    command += [str(file), "--collection", str(uri), "--fields", "draft", "--commit-seconds", "0.01"]

    def write(draft):
        rows = [
            {"id": f"d{i}", "title": f"t{draft}", "text": f"第{draft}稿。" * (1 + i % 9), "draft": draft}
            for i in range(250)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    killed = draft = 0
    while killed < -(-KILLS // 2):
        write(draft)
        version = Collection.open(uri, model=model).version
        worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while worker.poll() is None and Collection.open(uri, model=model).version == version:
                time.sleep(0.01)
            time.sleep(delays.uniform(0, 0.3))
            if worker.poll() is None:
                killed += 1
            else:  # it was faster; one that was killed goes on with its file
                draft += 1
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        check(uri)
    write(draft + 1)
    subprocess.run(command, check=True, capture_output=True)
    found = check(uri)
    assert {row["draft"] for row in found.get([f"d{i}" for i in range(250)])} == {draft + 1}
    assert " 250 the same" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_two_writers_lose_nothing_while_others_read(model, tmp_path):
    uri = tmp_path / "c"
    Collection.create(uri, model, chunk_tokens=16)
    failures = []

    def write(name):
        try:
            mine = Collection.open(uri, model=model, index_dir=tmp_path / name)
            for n in range(8):
                shared = [
                    {"id": f"s{i}", "title": name, "text": f"{name}写的。" * (1 + n % 4)} for i in range(4)
                ]
                mine.upsert([*shared, {"id": f"{name}{n}", "text": "自己的"}])
                if n % 3 == 2:
                    mine.delete([f"{name}{n - 1}"])
        except Exception as failure:
            failures.append(failure)

    def read(ended):
        try:
            seen = Collection.open(uri, model=model, index_dir=tmp_path / "reader")
            while not ended.is_set():
                seen.refresh()
                hits = seen.search("写", k=50)
                assert len({hit.id for hit in hits}) == len(hits)
                for hit in hits:
                    if hit.id.startswith("s"):  # title and text are of one writer
                        assert set(hit.document["text"].split("。")[:-1]) == {f"{hit.document['title']}写的"}
        except Exception as failure:
            failures.append(failure)

    ended = threading.Event()
    readers = [threading.Thread(target=read, args=(ended,))]
    writers = [threading.Thread(target=write, args=(name,)) for name in ("甲", "乙")]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    for thread in readers:
        thread.join()
    assert not failures
    last = Collection.open(uri)
    assert last.verify().ok
    left = {f"{name}{n}" for name in ("甲", "乙") for n in range(8) if n not in (1, 4)}
    assert len(last) == 4 + len(left)
    assert all(row is not None for row in last.get(sorted(left)))


def test_of_doubled_ids_the_last_one_is_kept_and_told(collection, caplog):
    done = collection.upsert(
        [{"id": "x", "text": "一"}, {"id": "y", "text": "二"}, {"id": "x", "text": "三"}]
    )
    assert (done.new, done.doubled) == (2, 1)
    assert collection.get("x")["text"] == "三"
    assert "1 rows have an id that comes again" in caplog.text


@pytest.mark.parametrize("commit_seconds", [0, 60])
@pytest.mark.parametrize(
    ("there", "texts", "counts"),
    [
        (None, ["一", "二"], (1, 0, 0)),
        (None, ["一", "一"], (1, 0, 0)),
        (None, ["一", "二", "一"], (1, 0, 0)),
        ("一", ["一", "一"], (0, 0, 1)),
        ("一", ["一", "二", "三"], (0, 1, 0)),
        ("一", ["二", "二"], (0, 1, 0)),
        ("一", ["二", "一"], (0, 1, 0)),
    ],
)
def test_a_document_counts_once_however_far_apart_its_rows_are(
    model, tmp_path, monkeypatch, commit_seconds, there, texts, counts
):
    monkeypatch.setattr(writing, "_PIECE", 1)
    made = Collection.create(tmp_path / "c", model)
    if there:
        made.upsert([{"id": "x", "text": there}])
    rows = [row for text in texts for row in ({"id": "x", "text": text}, {"id": f"y{text}", "text": text})]
    others = len(set(texts))
    before, _ = made.preview(rows)
    done = made.upsert(rows, commit_seconds=commit_seconds)
    new, changed, same = counts
    for found in (before, done):
        assert (found.new, found.changed, found.same) == (new + others, changed, same)
        assert found.doubled == len(rows) - 1 - others
    assert made.get("x")["text"] == texts[-1]


def test_doubled_ids_can_be_an_error(collection):
    with pytest.raises(CareError, match="id 'x' comes twice"):
        collection.upsert([{"id": "x", "text": "一"}, {"id": "x", "text": "二"}], on_duplicate="error")
    assert collection.get("x")["text"] == "一"
