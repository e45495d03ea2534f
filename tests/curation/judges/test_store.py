import sqlite3

import pytest

from care_accel import CareError
from care_accel.curation.config import JudgeConfig, Price
from care_accel.curation.judges.judge import Reply
from care_accel.curation.judges.store import FILE, Pair, Store, digest, open_store, remove_store

JUDGE = JudgeConfig("a", "http://127.0.0.1/v1", "m", price=Price(1.0, 2.0))
PAIR = Pair("q", "d")
ANSWERED = Reply(
    "answered", {"grade": 4}, '{"grade": 4, "reason": "王小明的病"}', tokens_in=10, tokens_out=5, model="m-1"
)
UNREADABLE = Reply("unreadable", None, "张三说四分", "李四说四分", "it is not JSON", 10, 5)


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / FILE) as opened:
        yield opened


def test_the_file_and_its_journal_are_its_owner_s_alone(store):
    store.add(JUDGE, PAIR, "p", "h", ANSWERED, 4)
    for file in (store.file, store.file.with_name(f"{FILE}-wal"), store.file.with_name(f"{FILE}-shm")):
        assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_added_is_there_for_another_reader_at_once(store, tmp_path):
    store.add(JUDGE, PAIR, "p", "h", ANSWERED, 4)
    with Store(tmp_path / FILE) as other:
        assert other.grades("a", "p") == {PAIR: ("h", 4)}
        assert other.finished("a", "p") == {PAIR: "h"}
    assert store.grades("b", "p") == store.grades("a", "p2") == {}


def test_a_full_disk_is_told_in_one_line_and_earlier_judgements_stay(store):
    store.add(JUDGE, PAIR, "p", "h", ANSWERED, 4)
    (pages,) = store._base.execute("PRAGMA page_count").fetchone()
    store._base.execute(f"PRAGMA max_page_count = {pages}")
    long = Reply("answered", {"grade": 4}, "长" * 100_000, tokens_in=10, tokens_out=5, model="m-1")
    with pytest.raises(CareError, match="sqlite3: the disk is full; the judgements before are kept"):
        store.add(JUDGE, Pair("q", "d2"), "p", "h", long, 4)
    assert store.grades("a", "p") == {PAIR: ("h", 4)}


def test_a_later_answer_takes_the_place_of_an_earlier_and_costs_are_added(store):
    store.add(JUDGE, PAIR, "p", "h", UNREADABLE, None)
    assert store.finished("a", "p") == {PAIR: "h"}
    assert store.finished("a", "p", again=True) == {}
    store.add(JUDGE, PAIR, "p", "h2", ANSWERED, 4)
    assert store.grades("a", "p") == {PAIR: ("h2", 4)}
    totals = store.totals(["a"], "p")["a"]
    assert totals == {
        "answered": 1,
        "unreadable": 0,
        "unanswered": 0,
        "tokens_in": 20,
        "tokens_out": 10,
        "cost": pytest.approx(40e-6),
    }


def test_a_pair_without_an_answer_is_not_finished(store):
    store.add(JUDGE, PAIR, "p", "h", Reply("unanswered", error="HTTP 500"), None)
    assert store.finished("a", "p") == {}
    assert store.grades("a", "p") == {}


def test_a_grade_without_an_answer_cannot_be_written(store):
    with pytest.raises(sqlite3.IntegrityError):
        store.add(JUDGE, PAIR, "p", "h", Reply("unanswered"), 4)


def test_another_model_under_the_same_name_is_refused(store):
    store.add(JUDGE, PAIR, "p", "h", ANSWERED, 4)
    store.check_model(JUDGE, "p")
    store.check_model(JudgeConfig("a", JUDGE.base_url, "n"), "another prompt")
    with pytest.raises(CareError, match="judgements by model 'm'"):
        store.check_model(JudgeConfig("a", JUDGE.base_url, "n"), "p")


def test_purging_leaves_no_byte_of_what_judges_wrote(store):
    for number in range(200):
        reply = (ANSWERED, UNREADABLE)[number % 2]
        store.add(JUDGE, Pair("q", str(number)), "p", "h", reply, 4 if reply is ANSWERED else None)
    names = [name.encode() for name in ("王小明", "张三", "李四")]
    files = [store.file, store.file.with_name(f"{FILE}-wal")]
    assert any(name in file.read_bytes() for name in names for file in files)
    before = store.finished("a", "p")
    assert store.purge_answers() == 200
    assert not any(name in file.read_bytes() for name in names for file in files)
    assert store.finished("a", "p") == before
    assert len(store.grades("a", "p")) == 100
    assert store.purge_answers() == 0


def test_removing_takes_the_journal_too(store):
    store.add(JUDGE, PAIR, "p", "h", ANSWERED, 4)
    assert len(remove_store(store.file)) == 3
    assert list(store.file.parent.iterdir()) == []


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(CareError, match="cannot be used"):
        Store(tmp_path / "text")
    with pytest.raises(CareError, match="run care-accel curate judge first"):
        open_store(tmp_path / "nowhere")


def test_a_hash_tells_where_one_text_ends_and_the_next_begins():
    assert digest("ab", "c") != digest("a", "bc")
    assert digest("a", "b") != digest("b", "a")
    assert digest("\ud800", "b")
