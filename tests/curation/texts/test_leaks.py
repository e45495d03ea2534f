import gzip
import json

import pytest

from care_accel import CareError
from care_accel.curation.steps import no_progress
from care_accel.curation.texts import leaks
from care_accel.curation.texts.duplicates import normalise
from care_accel.curation.texts.leaks import check_leaks, run

LONG = "糖尿病患者要控制主食，监测血糖，适量运动，遵医嘱用药，定期复查糖化血红蛋白"


def write(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if file.suffix == ".gz" else text.encode())
    return file


@pytest.fixture
def evaluation(tmp_path):
    folder = tmp_path / "data"
    write(
        folder / "retrieval/a/corpus.jsonl.gz",
        {"_id": "d1", "title": "", "text": LONG},
        {"_id": "d2", "text": "骨折后应固定"},
    )
    write(
        folder / "retrieval/a/queries.jsonl",
        {"_id": "q1", "text": "高血压怎么治？"},
        {"_id": "q2", "text": "胃炎吃什么"},
    )
    write(folder / "sts/b/dev.jsonl", {"sentence1": "头痛怎么办", "sentence2": "头疼怎么办", "score": 1.0})
    write(
        folder / "sts/b/train.jsonl",
        {"sentence1": "这是训练用的句子", "sentence2": "不是评测用的", "score": 0.0},
    )
    return folder  # fmt: skip


def test_clean_training_data_leaks_nothing(evaluation, tmp_path):
    train = write(tmp_path / "t.jsonl", {"query": "感冒怎么办", "pos": ["感冒多饮水休息"], "neg": []})
    report = check_leaks([train], [evaluation], tmp_path)
    assert report["leaks"] == 0
    assert {row["exact"] + row["near"] for row in report["evaluation"]} == {0}
    assert sum(row["texts"] for row in report["evaluation"]) == 6
    assert (tmp_path / "leaks.jsonl").read_text() == ""


def test_texts_that_leak_are_named_with_their_places_and_are_not_repeated(evaluation, tmp_path):
    train = write(
        tmp_path / "t.jsonl",
        {"query": "高血压怎么治", "pos": [LONG + "！", "头疼怎么办"], "neg": ["没有见过的文档"]},
        {"query": "没有见过的问题", "pos": [LONG], "neg": [LONG.replace("适量", "适当")]},
    )
    report = check_leaks([train], [evaluation], tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "leaks.jsonl").read_text().splitlines()]
    found = {(r["line"], r["field"], r["match"], r["evaluation_field"], r["id"], r["times"]) for r in rows}
    assert found == {
        (1, "query", "exact", "query", "q1", 1),
        (1, "pos", "exact", "document", "d1", 2),
        (1, "pos", "exact", "sentence2", None, 1),
        (2, "neg", "near", "document", "d1", 1),
    }
    assert report["leaks"] == 4
    counts = {row["file"].split("data/")[1]: (row["exact"], row["near"]) for row in report["evaluation"]}
    assert counts == {
        "retrieval/a/corpus.jsonl.gz": (1, 0),
        "retrieval/a/queries.jsonl": (1, 0),
        "sts/b/dev.jsonl": (1, 0),
    }
    for name in ("leaks.jsonl", "leak-check.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
        assert "血糖" not in (tmp_path / name).read_text()


def test_an_evaluation_text_inside_a_longer_training_text_is_found(evaluation, tmp_path):
    quoted = (
        f"昨天读到：“{LONG}。”请问这样对不对，还要注意一些什么别的事情，能不能停药，要多久去一次医院复查呢"
    )
    short = "您好，高血压怎么治？请医生详细回答一下，谢谢"
    train = write(tmp_path / "t.jsonl", {"query": short, "pos": [quoted, LONG]}, {"query": quoted, "pos": []})
    report = check_leaks([train], [evaluation], tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "leaks.jsonl").read_text().splitlines()]
    assert {(r["field"], r["match"], r["id"], r["times"]) for r in rows} == {
        ("pos", "contained", "d1", 2),
        ("pos", "exact", "d1", 1),
    }
    (share,) = [r["similarity"] for r in rows if r["match"] == "contained"]
    assert share == round(len(normalise(LONG)) / len(normalise(quoted)), 4)
    # What is there exactly is counted so, and once.
    corpus = report["evaluation"][0]
    assert (corpus["exact"], corpus["near"], corpus["contained"]) == (1, 0, 0)
    train = write(tmp_path / "t.jsonl", {"query": short, "pos": [quoted]})
    for least, found in ((16, (1, 0)), (6, (1, 1)), (0, (0, 0))):
        report = check_leaks([train], [evaluation], tmp_path, contained=least)
        assert tuple(row["contained"] for row in report["evaluation"][:2]) == found
        assert report["leaks"] == sum(found)


def test_every_evaluation_text_that_a_training_text_is_near_to_is_counted(tmp_path):
    words = [LONG, LONG.replace("适量", "适当"), LONG.replace("定期", "按期")]
    corpus = write(
        tmp_path / "corpus.jsonl", *({"_id": str(i), "text": text} for i, text in enumerate(words))
    )
    train = write(tmp_path / "t.jsonl", {"text": LONG + "。" + "注意足部"})
    report = check_leaks([train], [corpus], tmp_path, threshold=0.7)
    assert report["leaks"] == 1
    assert report["evaluation"][0]["near"] == 3


def test_pieces_of_the_training_data_find_the_same(evaluation, tmp_path, monkeypatch):
    rows = [{"query": f"没有见过的问题{i}", "pos": [LONG + str(i), "胃炎吃什么"]} for i in range(9)]
    train = write(tmp_path / "t.jsonl", *rows)
    whole = check_leaks([train], [evaluation], tmp_path), (tmp_path / "leaks.jsonl").read_text()
    monkeypatch.setattr(leaks, "_CHUNK", 4)
    assert (check_leaks([train], [evaluation], tmp_path), (tmp_path / "leaks.jsonl").read_text()) == whole
    assert whole[0]["leaks"] == 10


def test_a_folder_of_training_files_only_is_refused(tmp_path):
    train = write(tmp_path / "data" / "some.jsonl", {"text": "头痛怎么办"})
    with pytest.raises(CareError, match=r"no \.jsonl file other than training files"):
        check_leaks([train], [tmp_path / "data"], tmp_path)
    with pytest.raises(CareError, match="no such file or folder"):
        check_leaks([train], [tmp_path / "nowhere"], tmp_path)
    with pytest.raises(CareError, match="contains no text"):
        check_leaks([train], [write(tmp_path / "empty.jsonl")], tmp_path)


@pytest.mark.parametrize("leaking", [True, False])
def test_the_step_fails_if_there_is_a_leak(evaluation, workplace, tmp_path, leaking):
    write(tmp_path / "t.jsonl", {"text": LONG if leaking else "没有见过的文档"})
    place = workplace(**{"leak-check": {"train": ["t.jsonl"], "evaluation": ["data/retrieval", "data/sts"]}})
    summary = run(place.config, no_progress)
    assert summary.failed == leaking
    assert bool(summary.warnings) == leaking
    assert [row[2:] for row in summary.table[1:]] == [
        ("1" if leaking else "0", "0", "0"),
        *[("0", "0", "0")] * 2,
    ]
    assert json.loads((place.output / "leak-check.json").read_text())["leaks"] == leaking
