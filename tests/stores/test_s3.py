"""Collections in an object store: the same as in a folder, by one process and by several."""

import subprocess
import sys
import threading
import time

import pytest
from cluster_corpus import content, document, require_equal, write_lines

from care_accel import CareError, Collection
from care_accel.cluster import Reading, encode_corpus
from care_accel.cluster.run_folder import RunFolder, seen_table
from care_accel.collection.sources import read_documents
from care_accel.collection.storage import driver_lock as locks
from care_accel.collection.storage import fragments
from care_accel.collection.storage.objects import objects_of
from care_accel.collection.storage.orphans import remove_orphans

pytest.importorskip("obstore", reason="needs obstore: make stores")
READING = Reading(fields=("year",))
ROWS = [document(number) for number in range(30)]


@pytest.fixture
def corpus(tmp_path):
    return [write_lines(tmp_path / "a.jsonl", [*ROWS, document(3, draft=1)])]


def encode(corpus, collection, **options):
    given = {"cluster": "none", "reading": READING, "show": lambda line: None, "part_tokens": 160}
    return encode_corpus(corpus, collection, **given | options)


def test_a_collection_changes_in_a_store_as_in_a_folder(collection, options, uri, model, tmp_path):
    folder = Collection.create(tmp_path / "folder", model)
    for one in (collection, folder):
        one.upsert(ROWS)
        one.upsert([document(4, draft=1), document(40)])
        assert one.delete(["d5", "nowhere"]) == 1
        assert one.delete(filter="year < 2002") == 2
        one.compact(keep_days=0)
    again = Collection.open(uri, storage_options=options)
    for query in ("高血压怎么办", "第4条"):
        assert again.search(query, 5, filter="year >= 2004") == folder.search(query, 5, filter="year >= 2004")
    require_equal(content(again), content(folder))
    assert again.verify(encode=3).ok
    assert again.info()["table_bytes"] is None
    assert len(again.versions()) == 1


def test_an_earlier_version_is_read_only(collection, options, uri):
    collection.upsert(ROWS[:3])
    version = collection.version
    collection.delete(["d1"])
    old = Collection.open(uri, version=version, storage_options=options)
    assert len(old) == 3
    with pytest.raises(CareError, match="can only be read"):
        old.delete(["d0"])


def test_the_index_is_made_again_where_the_cache_is_empty(collection, options, uri, cache, tmp_path):
    collection.upsert(ROWS)
    before = collection.search("感冒", 3)
    other = Collection.open(uri, storage_options=options, index_dir=tmp_path / "elsewhere")
    assert other.search("感冒", 3) == before
    assert any((tmp_path / "elsewhere").iterdir())
    assert any((cache / "care_accel" / "collections").iterdir())


def test_writers_at_once_lose_nothing(collection, options, uri, model):
    writers = [Collection.open(uri, model=model, storage_options=options) for _ in range(3)]
    failed = []

    def write(number, writer):
        try:
            for start in range(0, 6, 2):
                writer.upsert([document(n, draft=number) for n in range(start, start + 3)])
                writer.upsert([document(100 * number + start)])
        except Exception as cause:  # told after the threads have ended
            failed.append(cause)

    threads = [threading.Thread(target=write, args=one) for one in enumerate(writers, start=1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    collection.refresh()
    assert collection.verify().ok
    assert len(collection) == 7 + 9


def test_the_command_line_takes_the_options_from_the_environment(environment, uri, tmp_path):
    source = write_lines(tmp_path / "a.jsonl", ROWS[:5])
    index = ("index", str(source), "--collection", uri, "--fields", "year")
    for words, expected in (
        (index, "5 new"),
        (index, "5 the same"),
        (("search", "--collection", uri, "高血压"), "d0"),
        (("delete", "--collection", uri, "d0"), "1"),
        (("collection", "verify", uri, "--orphans"), "0 orphaned files"),
        (("collection", "compact", uri), "versions are left"),
        (("collection", "info", uri), "s3://"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "care_accel", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("address", "changed", "message"),
    [
        ("s3://care/nothing", {}, "there is no collection"),
        ("s3://no-such-bucket/a", {}, "the bucket does not exist"),
        ("s3://care/a", {"aws_endpoint": "http://127.0.0.1:1"}, "cannot be reached"),
        ("s3://care/a", {"allow_http": "false"}, "allow http with AWS_ALLOW_HTTP"),
        ("hdfs://care/a", {}, "hdfs"),
    ],
)
def test_a_store_that_cannot_be_used_is_told_in_one_line(options, address, changed, message):
    given = options | changed | {"client_max_retries": "1", "client_retry_timeout": "2"}
    with pytest.raises(CareError, match=message) as told:
        Collection.open(address, storage_options=given)
    assert "\n" not in str(told.value)
    assert options["aws_secret_access_key"] not in str(told.value)


def test_a_second_collection_is_not_put_over_the_first(collection, options, uri, model):
    with pytest.raises(CareError, match="is a collection already"):
        Collection.create(uri, model, storage_options=options)


def test_an_address_of_a_local_file_is_a_folder(model, tmp_path):
    made = Collection.create(f"file://{tmp_path}/a", model)
    made.upsert(ROWS[:3])
    assert made.uri == str(tmp_path / "a")
    assert (tmp_path / "a" / "documents.lance").is_dir()
    assert len(Collection.open(f"file://{tmp_path}/a")) == 3


# Parts: what several machines share


def test_of_several_who_create_a_file_one_does(options, uri):
    won = []
    begin = threading.Barrier(6)

    def create(number):
        files = objects_of(uri, options)
        begin.wait()
        if files.create("a", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    files = objects_of(uri, options)
    assert files.read("a") == str(won[0]).encode()
    assert [(entry.name, entry.bytes) for entry in files.entries()] == [("a", 1)]
    files.remove("a")
    files.remove("a")
    assert files.read("a") is None


def test_the_first_record_of_a_part_counts(options, uri):
    run = RunFolder.of(uri, options)
    first = run.claim(3, {"files": ["a"]}, seen_table(["x"], []))
    second = run.claim(3, {"files": ["b"]}, seen_table(["y"], []))
    assert (first.won, second.won) == (True, False)
    assert second.values == first.values == run.records()[3]
    assert run.seen(run.record(3))["id"].to_pylist() == ["x"]


def test_parts_make_the_table_that_an_upsert_makes(corpus, collection, model, tmp_path):
    folder = Collection.create(tmp_path / "folder", model)
    folder.upsert(read_documents(corpus, fields=["year"]))
    done = encode(corpus, collection)
    require_equal(content(collection), content(folder))
    assert done.parts > 3
    assert encode(corpus, collection).same == 30


def test_a_run_that_is_killed_goes_on_and_its_orphans_are_removed(
    corpus, collection, model, tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    claim, calls = RunFolder.claim, []

    def killed(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise Killed
        return claim(self, *arguments)

    monkeypatch.setattr(RunFolder, "claim", killed)
    with pytest.raises(Killed):
        encode(corpus, collection)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = remove_orphans(collection._state.table.latest(), older_than=-60)
    assert (found.removed, found.young) == (1, 0)
    done = encode(corpus, collection)
    assert done.parts_before == 1
    folder = Collection.create(tmp_path / "folder", model)
    folder.upsert(read_documents(corpus, fields=["year"]))
    require_equal(content(collection), content(folder))


def test_the_same_command_goes_on_after_a_driver_that_was_killed(environment, uri, model, tmp_path, options):
    """By a process of its own, whose lock is there until it is seen to be of nobody."""
    rows = [document(number) for number in range(400)]
    source = write_lines(tmp_path / "a.jsonl", rows)
    command = [
        sys.executable,
        "-m",
        "care_accel",
        "index",
        str(source),
        "--collection",
        uri,
        "--fields",
        "year",
    ]
    command += ["--cluster", "none", "--part-tokens", "200"]
    log = tmp_path / "log.jsonl"
    first = subprocess.Popen([*command, "--json-log", str(log)], env=environment, stderr=subprocess.DEVNULL)
    ended = time.monotonic() + 120
    while time.monotonic() < ended and not (log.exists() and log.read_text().count('"event": "part"') >= 3):
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "waiting up to 30 s to see whether process" in done.stderr
    assert "of them done before" in done.stdout
    folder = Collection.create(tmp_path / "folder", model)
    folder.upsert(read_documents([source], fields=["year"]))
    require_equal(content(Collection.open(uri, storage_options=options)), content(folder))


def test_a_second_driver_is_refused(corpus, collection, options, monkeypatch):
    monkeypatch.setattr(locks, "_BEAT", 0.1)
    monkeypatch.setattr(locks, "_LOOK", 0.1)
    with (
        locks.driver_lock(collection.uri, options),
        pytest.raises(CareError, match=r"process \d+ on .* is encoding"),
    ):
        encode(corpus, collection)


def test_another_writer_between_comparison_and_commit_makes_no_document_twice(
    corpus, collection, options, model, tmp_path, monkeypatch
):
    other = Collection.open(collection.uri, model=model, storage_options=options)
    commit = fragments.commit
    written = []

    def late(*arguments):
        if not written:
            written.append(other.upsert([document(7, draft=9)]))
        return commit(*arguments)

    monkeypatch.setattr(fragments, "commit", late)
    encode(corpus, collection)
    folder = Collection.create(tmp_path / "folder", model)
    folder.upsert(read_documents(corpus, fields=["year"]))
    require_equal(content(collection), content(folder))


def test_workers_of_a_cluster_write_into_the_store(corpus, collection, model, tmp_path, options):
    """Each opens the table by the options that it was sent, and creates its records in the store."""
    pytest.importorskip("ray", reason="needs Ray: make stores")
    from nodes import cluster_of_this_machine

    with cluster_of_this_machine() as address:
        done = encode(corpus, collection, cluster=address)
    assert (done.deaths, done.read) == (0, 31)
    folder = Collection.create(tmp_path / "folder", model)
    folder.upsert(read_documents(corpus, fields=["year"]))
    require_equal(content(collection), content(folder))
