"""What the approximate suite measures: its texts, its vectors, and which cases are left to do."""

import json

import numpy as np
import pytest

from bench.approximate import case_by_case
from bench.approximate.test_approximate import CHOSEN, OURS, SAME, engines, enlarged
from bench.harness import record
from bench.inputs import embeddings
from care_accel import CareError


def write(file, *rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_each_text_is_encoded_once_and_a_query_is_no_document(tmp_path):
    write(tmp_path / "retrieval" / "a" / "corpus.jsonl", {"_id": "1", "title": "标题", "text": "正文"})
    write(tmp_path / "retrieval" / "a" / "queries.jsonl", {"_id": "1", "text": "问题"})
    write(
        tmp_path / "train" / "b.jsonl",
        {"query": "问题", "pos": ["回答"], "neg": ["回答", " "]},
        {"query": "二", "pos": []},
    )
    write(tmp_path / "sts" / "train.jsonl", {"sentence1": "问题", "sentence2": "句子", "score": 1})
    documents, queries = embeddings.distinct(tmp_path)
    assert documents == ["标题 正文", "句子", "回答"]
    assert queries == ["问题", "二"]


@pytest.mark.parametrize("count", [5, 20, 50])
def test_more_vectors_than_there_are_are_moved_ones_of_the_same_length(count):
    documents = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    vectors = enlarged(documents, count)
    assert vectors.shape == (count, 8)
    np.testing.assert_array_equal(vectors[:20], documents[:count])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    # Of so few documents the two whose difference moves a third may be one.
    assert len(np.unique(vectors, axis=0)) > 0.9 * count


def test_ours_is_measured_before_what_is_compared_with_its_recall():
    names = list(engines(["faiss IVFFlat", "another"], (0.95, 0.99)))
    assert names[:3] == [OURS, f"{CHOSEN} 0.95", f"{CHOSEN} 0.99"]
    assert names.index("faiss IVFFlat, recall 0.99") < names.index(f"{SAME} 0.95")
    assert names[-1] == "another, recall 0.99"


def test_cases_that_the_results_have_are_not_measured_again(tmp_path, monkeypatch):
    file = tmp_path / "results.json"
    row = {
        "suite": "approximate", "name": OURS, "parameters": {"kind": "clustered", "vectors": 1000, "width": 32},
    }  # fmt: skip
    runs = [{"size": "full", "rows": [row]}, {"size": "default", "rows": [row | {"parameters": {}}]}]
    monkeypatch.setattr(record, "runs_before", lambda results: (results, {}, runs))
    assert case_by_case.measured(file) == {"clustered,1000,32"}


def test_results_of_another_machine_are_refused_before_anything_is_measured(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"schema": 1, "machine": {"name": "another"}, "runs": []}))
    with pytest.raises(CareError, match="is of the machine another"):
        case_by_case.measured(file)


@pytest.mark.parametrize("case", ["gaussian", "gaussian,x,3", "gaussian,0,3", "other,1,2", "gaussian,1,2,3"])
def test_a_wrong_case_is_refused_before_anything_is_measured(case, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["approximate.py", case])
    with pytest.raises(SystemExit) as ended:
        case_by_case.main()
    assert ended.value.code == 2
    assert f"{case!r} is no case; write KIND,VECTORS,WIDTH" in capsys.readouterr().err
