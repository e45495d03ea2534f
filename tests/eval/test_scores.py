import json

import numpy as np
import pytest

from care_accel import CareError
from care_accel.eval.scores import QueryScores, file_name, read_scores, task_file

MEAN = QueryScores("retrieval/a", "ndcg_at_10", "mean", np.array([0.1, 1 / 3]), ("q0", "q1"))
PAIRS = QueryScores("sts/a", "spearman", "spearman", np.array([0.9, 0.1]), gold=np.array([5.0, 1.0]))


@pytest.mark.parametrize("scores", [MEAN, PAIRS], ids=["mean", "pairs"])
def test_what_is_written_is_read_to_the_last_bit(scores, tmp_path):
    scores.write(tmp_path / "a.json")
    found = read_scores(tmp_path / "a.json")
    assert (found.task, found.metric, found.kind, found.queries) == (
        scores.task,
        scores.metric,
        scores.kind,
        scores.queries,
    )
    assert found.values.tolist() == scores.values.tolist()
    assert (found.gold is None) == (scores.gold is None)
    if scores.gold is not None:
        assert found.gold.tolist() == scores.gold.tolist()


def test_a_file_is_private_even_where_a_public_one_was(tmp_path):
    (tmp_path / "a.json").touch(mode=0o644)
    MEAN.write(tmp_path / "a.json")
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema 2 is unknown"),
        ({"kind": "median"}, "not a file of per-query scores"),
        ({"scores": [0.1]}, "not a file of per-query scores"),
        ({"scores": [0.1, "x"]}, "not a file of per-query scores"),
        ({"scores": [0.1, None]}, "not a file of per-query scores"),
        ({"scores": [[0.1], [0.2]]}, "not a file of per-query scores"),
        ({"scores": [], "queries": []}, "not a file of per-query scores"),
        ({"queries": None}, "not a file of per-query scores"),
        ({"kind": "pearson"}, "not a file of per-query scores"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(change, words, tmp_path):
    file = tmp_path / "a.json"
    MEAN.write(file)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CareError, match=words) as error:
        read_scores(file)
    assert str(file) in str(error.value)


def test_a_missing_file_says_how_to_get_it(tmp_path):
    with pytest.raises(CareError, match="run care-accel eval again"):
        read_scores(tmp_path / "a.json")


def test_a_task_s_files_lie_in_the_model_s_folder_whatever_its_name(tmp_path):
    assert task_file(tmp_path, "retrieval/cmedir").name == "retrieval__cmedir.json"
    assert task_file(tmp_path, "../x y", ".scores.json") == tmp_path / "__x_y.scores.json"
    assert file_name("..") == "_"
