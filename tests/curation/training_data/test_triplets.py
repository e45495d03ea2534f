import json
import sqlite3

import pytest

from care_accel import CareError, DualEncoder
from care_accel.curation.config import TrainData
from care_accel.curation.judges.store import FILE, Store
from care_accel.curation.labels.candidates import CACHE
from care_accel.curation.labels.judging import LOCK, exclusive_lock
from care_accel.curation.steps import no_progress
from care_accel.curation.training_data.triplets import make_train_data, run
from care_accel.training.data.tables import load_table
from care_accel.training.recipe import DataFile

ROWS = [
    {"query": "高血压患者平时应该怎么治疗？", "pos": ["高血压患者应低盐饮食，遵医嘱服用降压药，定期测量血压。"]},
    {"query": "高血压患者平时应该怎么治疗", "pos": ["规律服用降压药，每天早晚在家里测量血压并且记录下来。"], "neg": ["骨折后应固定并尽快就医拍片。"]},
    {"query": "糖尿病吃什么比较好", "pos": ["<p>糖尿病患者要控制主食，监测血糖，适量运动。</p>"]},
    {"query": "感冒发热以后怎么办"},
    {"query": "嗯"},
    {"text": "糖尿病患者要控制主食，监测血糖，适量运动！"},
    {"text": "感冒发热时多饮水休息，必要时用退热药。"},
    {"title": "胃炎", "text": "胃炎患者饮食清淡，避免辛辣刺激。电话13800138000"},
]  # fmt: skip


@pytest.fixture
def make(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setattr(DualEncoder, "from_pretrained", lambda name: tiny_model)
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def run(judge=lambda pairs: [False] * len(pairs), **changes):
        values = {"texts": [str(file)], "neighbours": 3, "similarity": 1.0, "negatives": 2} | changes
        report = make_train_data(
            TrainData(**values), tmp_path, judge, redact=lambda text: text.replace("13800138000", "【电话】")
        )
        rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
        return report, rows

    return run


def test_rows_are_cleaned_and_each_is_there_once_with_all_that_is_known_of_it(make):
    report, rows = make()
    assert [row["query"] for row in rows] == ["高血压患者平时应该怎么治疗？", "糖尿病吃什么比较好"]
    assert rows[0]["pos"] == [ROWS[0]["pos"][0], ROWS[1]["pos"][0]]
    assert rows[0]["neg"][0] == "骨折后应固定并尽快就医拍片。"  # people said so
    assert rows[1]["pos"] == ["糖尿病患者要控制主食，监测血糖，适量运动。"]
    counts = report["counts"]
    assert counts["queries read"] == 5
    assert counts["queries without exact duplicates"] == 3
    assert counts["documents read"] == 7
    assert counts["documents without duplicates"] == 6
    assert counts["queries without an answer"] == 1
    assert report["unusable"] == {"query: too short": 1}


def test_what_nearly_repeats_an_answer_is_never_its_negative(make):
    for _, rows in (make(), make(near_duplicates=1.0)):
        for row in rows:
            assert len(row["neg"]) == 2
            assert not {text.rstrip("。！") for text in row["pos"]} & {
                text.rstrip("。！") for text in row["neg"]
            }


@pytest.mark.parametrize("kind", ["drop", "add"])
def test_what_the_judge_calls_an_answer_is_no_negative(make, kind):
    def judge(pairs):
        return [query.startswith("感冒") and document.startswith("感冒") for query, document in pairs]

    report, rows = make(judge, false_negatives=kind)
    assert report["counts"]["false negatives"] == 1
    cold = [row for row in rows if row["query"].startswith("感冒")]
    assert [row["pos"] for row in cold] == (
        [["感冒发热时多饮水休息，必要时用退热药。"]] if kind == "add" else []
    )
    assert all(not text.startswith("感冒") for row in cold for text in row["neg"])


def test_personal_data_reaches_neither_the_judge_nor_the_file(make, tmp_path):
    seen = []

    def judge(pairs):
        seen.extend(text for pair in pairs for text in pair)
        return [False] * len(pairs)

    make(judge, negatives=6)
    assert any("【电话】" in text for text in seen)
    assert not any("13800138000" in text for text in seen)
    assert "13800138000" not in (tmp_path / "train.jsonl").read_text()


def test_documents_are_encoded_once_for_all_runs_and_queries_are_kept_nowhere(
    make, tmp_path, tiny_model, monkeypatch
):
    encoded = []
    encode = tiny_model.encode_document
    monkeypatch.setattr(tiny_model, "encode_document", lambda texts: encoded.extend(texts) or encode(texts))
    make(margin=0.5)
    assert len(encoded) == len(set(encoded)) == 6
    first = (tmp_path / "train.jsonl").read_bytes()
    make(margin=0.5)
    assert len(encoded) == 6
    assert (tmp_path / "train.jsonl").read_bytes() == first
    with sqlite3.connect(tmp_path / CACHE) as cache:
        assert cache.execute("SELECT COUNT(*) FROM vectors").fetchone() == (6,)
    assert (tmp_path / CACHE).stat().st_mode & 0o777 == 0o600


def test_what_scores_as_well_as_an_answer_is_left_out_unjudged(make):
    asked = []

    def judge(pairs):
        asked.extend(pairs)
        return [False] * len(pairs)

    report, _ = make(judge, negatives=6)
    assert "candidates too near an answer" not in report["counts"]
    all_pairs = set(asked)
    asked.clear()
    report, _ = make(judge, negatives=6, margin=0.0)
    assert report["counts"]["candidates too near an answer"] > 0
    assert set(asked) < all_pairs
    # Nothing is known that answers this one, so that there is nothing to compare with.
    cold = {pair for pair in all_pairs if pair[0].startswith("感冒")}
    assert cold <= set(asked)


def test_questions_that_are_alike_are_left_out(make):
    report, _ = make(seeds=1, neighbours=0, similarity=-1.0)
    assert report["counts"]["queries unlike each other"] == 1


def test_the_training_reads_what_was_written_and_only_the_owner_can(make, tmp_path, tiny_model):
    make()
    specs = tiny_model.spec("query"), tiny_model.spec("document")
    table = load_table(DataFile("train.jsonl"), tmp_path, *specs, negatives=2, seed=0)
    assert table.column_names == ["query", "positive", "negative_1", "negative_2"]
    assert len(table) == 3
    assert (tmp_path / "train.jsonl").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "train-data.json").stat().st_mode & 0o777 == 0o600


def test_the_same_settings_give_the_same_file(make, tmp_path):
    make()
    first = (tmp_path / "train.jsonl").read_bytes()
    make()
    assert (tmp_path / "train.jsonl").read_bytes() == first


def test_a_broken_row_is_named(make, tmp_path):
    file = tmp_path / "broken.jsonl"
    file.write_text('{"query": "高血压怎么治", "pos": "一个"}\n')
    with pytest.raises(CareError, match=r"broken.jsonl, line 1: 'pos' must be a list"):
        make(texts=[str(file)])


def test_texts_of_which_nothing_is_left_are_refused(make, tmp_path):
    file = tmp_path / "empty.jsonl"
    file.write_text('{"query": "嗯"}\n')
    with pytest.raises(CareError, match="no query or no document is left"):
        make(texts=[str(file)])


@pytest.fixture
def asked(serve, workplace, tiny_model, monkeypatch, tmp_path):
    """Return a function that runs the step with two judges behind a real socket."""
    monkeypatch.setattr(DualEncoder, "from_pretrained", lambda name: tiny_model)
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def start(judges, **settings):
        server = serve(
            judges=judges, truth={"感冒发热以后怎么办\n感冒发热时多饮水休息，必要时用退热药。": 1}, **settings
        )
        section = {"texts": ["texts.jsonl"], "similarity": 1.0, "negatives": 2, "false_negatives": "add"}
        place = workplace(
            judges=[{"name": name, "base_url": server.url, "model": name, "retries": 1} for name in judges],
            **{"train-data": section},
        )
        return server, place

    return start


def test_negatives_are_what_the_judges_vote_to_be_no_answers_and_no_pair_is_asked_twice(asked):
    server, place = asked({"a": {}, "b": {}})
    summary = run(place.config, no_progress)
    rows = [json.loads(line) for line in (place.output / "train.jsonl").read_text().splitlines()]
    assert summary.facts["false negatives"] == "1"
    assert "all queries are among the 5,000 seeds" in summary.warnings[0]
    assert [row["pos"] for row in rows if row["query"].startswith("感冒")] == [[ROWS[6]["text"]]]
    pairs = [(row["judge"], row["query"], row["document"]) for row in server.events("answered")]
    assert len(pairs) == len(set(pairs)) > 0
    assert not any("13800138000" in row["document"] for row in server.events("asked"))
    with exclusive_lock(place.output / LOCK), pytest.raises(CareError, match="another run"):
        run(place.config, no_progress)
    run(place.config, no_progress)
    assert len(server.events("asked")) == len(pairs)


def test_one_judge_that_sees_no_answer_keeps_the_others_from_a_false_negative(asked):
    _, place = asked({"a": {}, "b": {"miss": 1.0}})
    assert run(place.config, no_progress).facts["false negatives"] == "0"


def test_judgements_of_training_data_are_counted_apart_from_those_of_candidates(asked):
    _, place = asked({"a": {}})
    run(place.config, no_progress)
    with Store(place.output / FILE) as store:
        prompts = {row[0] for row in store._base.execute("SELECT DISTINCT prompt FROM judgements")}
    assert all(prompt.startswith("relevance-v1@") and prompt.endswith("/train-data") for prompt in prompts)


def test_a_judge_that_refuses_ends_the_step_and_what_the_other_said_is_kept(asked):
    _, place = asked({"a": {}, "b": {"faults": {"always": "401"}}})
    with pytest.raises(CareError, match=r"judge 'b'.*run the step again"):
        run(place.config, no_progress)
    assert not (place.output / "train.jsonl").exists()
    with Store(place.output / FILE) as store:
        (count,) = store._base.execute("SELECT COUNT(*) FROM judgements WHERE judge = 'a'").fetchone()
    assert count > 0


def test_a_dry_run_asks_nobody_and_tells_what_is_left(asked):
    server, place = asked({"a": {}, "b": {}})
    plan = run(place.config, no_progress, dry_run=True)
    assert server.events("asked") == []
    assert not (place.output / FILE).exists()
    assert not (place.output / "train.jsonl").exists()
    left = {row[0]: int(row[1]) for row in plan.table[1:]}
    run(place.config, no_progress)
    # One candidate turns out to be an answer, so that a further one is asked.
    assert {name: count + 1 for name, count in left.items()} == {
        name: len(server.events("answered", judge=name)) for name in "ab"
    }
    assert int(plan.facts["pairs at most"].split(",")[0]) > left["a"]
    assert [row[1] for row in run(place.config, no_progress, dry_run=True).table[1:]] == ["0", "0"]


def test_a_configuration_without_the_section_is_refused(workplace):
    with pytest.raises(CareError, match="no train-data"):
        run(workplace().config, no_progress)
