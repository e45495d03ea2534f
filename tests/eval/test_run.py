import json

import mteb
import pytest
import torch
from scipy.stats import spearmanr

from care_accel import CareError, DualEncoder
from care_accel.eval.baselines import BM25Model
from care_accel.eval.run import evaluate
from care_accel.eval.scores import read_scores
from care_accel.eval.tasks import Skipped, folder_tasks


@pytest.fixture
def tasks(data_dir):
    return folder_tasks(data_dir)[0]


def test_the_summary_says_what_was_measured_and_how(tiny_model, tasks, tmp_path):
    skipped = [Skipped("sts/other", "has no split 'test' (has train)")]
    returned = evaluate(tiny_model.as_mteb(batch_size=7), tasks, tmp_path, skipped=skipped, device="cpu")
    folder = tmp_path / tiny_model.name
    written = json.loads((folder / "summary.json").read_text())
    assert written == returned
    assert list(written["tasks"]) == ["retrieval/tiny", "reranking/tiny", "sts/tiny"]
    scores = [entry["main_score"] for entry in written["tasks"].values()]
    assert written["average"] == pytest.approx(sum(scores) / 3)
    assert all(-1 <= score <= 1 for score in scores)
    assert written["tasks"]["retrieval/tiny"]["main_metric"] == "ndcg_at_10"
    assert written["tasks"]["sts/tiny"]["size"] == 4
    for entry in written["tasks"].values():
        assert entry["interval"][0] <= entry["main_score"] <= entry["interval"][1]
    assert written["skipped"] == [{"task": "sts/other", "reason": "has no split 'test' (has train)"}]
    manifest = written["manifest"]
    assert manifest["batch_size"] == 7
    assert manifest["document"]["revision"] == tiny_model.revision("document")
    assert manifest["query"]["spec"]["order"] == "normalize-then-slice"
    assert manifest["query"]["runtime"] == "pytorch"
    assert manifest["versions"]["mteb"]
    assert {"seed", "device", "limit", "score"} <= manifest.keys()
    assert manifest["seconds"]["encode_query"] > 0
    assert manifest["data"].keys() == written["tasks"].keys()
    assert manifest["kept"] == {}


def test_a_task_has_mteb_s_own_result_file(tiny_model, tasks, tmp_path):
    summary = evaluate(tiny_model.as_mteb(), tasks, tmp_path)
    for name, entry in summary["tasks"].items():
        file = tmp_path / tiny_model.name / f"{name.replace('/', '__')}.json"
        result = mteb.TaskResult.from_disk(file)
        assert result.task_name == name
        assert result.scores["test"][0]["main_score"] == pytest.approx(entry["main_score"], abs=1e-6)


def test_a_task_s_score_is_the_mean_or_the_correlation_of_what_is_kept_of_its_queries(
    tiny_model, tasks, tmp_path
):
    summary = evaluate(tiny_model.as_mteb(), tasks, tmp_path)
    for name, entry in summary["tasks"].items():
        scores = read_scores(tmp_path / tiny_model.name / f"{name.replace('/', '__')}.scores.json")
        assert (scores.task, scores.metric, len(scores)) == (name, entry["main_metric"], entry["size"])
        whole = scores.values.mean() if scores.gold is None else spearmanr(scores.gold, scores.values)[0]
        assert whole == pytest.approx(entry["main_score"], abs=5.1e-6)  # mteb keeps five digits


def test_scores_of_queries_hold_no_text_and_are_their_owner_s(tiny_model, tasks, tmp_path):
    evaluate(tiny_model.as_mteb(), tasks, tmp_path)
    files = [*tmp_path.glob("*/*.scores.json"), *tmp_path.glob("*/.scores/*.json")]
    assert len(files) == 6
    for file in files:
        assert file.read_text(encoding="utf-8").isascii()  # every text of the sets is Chinese
        assert file.stat().st_mode & 0o077 == 0


def test_a_task_finished_before_has_the_scores_of_its_own_queries_again(tiny_model, tasks, tmp_path):
    evaluate(tiny_model.as_mteb(), tasks, tmp_path)
    files = sorted((tmp_path / tiny_model.name).glob("*.scores.json"))
    full = [file.read_bytes() for file in files]
    evaluate(tiny_model.as_mteb(), tasks, tmp_path, limit=2)
    assert all(len(read_scores(file)) == 2 for file in files)
    said = []
    evaluate(tiny_model.as_mteb(), tasks, tmp_path, progress=said.append)
    assert all("finished before" in line for line in said)
    assert [file.read_bytes() for file in files] == full


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_text("{half")])
def test_a_task_whose_queries_scores_are_lost_is_run_again(counting, tasks, tmp_path, damage):
    first = evaluate(counting(), tasks[:1], tmp_path)
    (kept,) = (tmp_path / "bm25/.scores").iterdir()
    scores = kept.read_bytes()
    damage(kept)
    assert evaluate(counting(), tasks[:1], tmp_path)["average"] == first["average"]
    assert counting.runs == 2
    assert kept.read_bytes() == scores


def test_scores_are_those_of_mteb_evaluate(tiny_model, data_dir, tasks, tmp_path):
    ours = evaluate(tiny_model.as_mteb(), tasks, tmp_path)["tasks"]
    fresh = folder_tasks(data_dir)[0]
    theirs = mteb.evaluate(
        tiny_model.as_mteb(), fresh, cache=None, co2_tracker=False, show_progress_bar=False
    )
    for result in theirs.task_results:
        assert ours[result.task_name]["main_score"] == result.scores["test"][0]["main_score"]


class Counting(BM25Model):
    """Counts how often documents are indexed."""

    runs = 0

    def index(self, corpus, **options):
        type(self).runs += 1
        super().index(corpus, **options)


@pytest.fixture
def counting(monkeypatch):
    monkeypatch.setattr(Counting, "runs", 0)
    return Counting


def test_a_finished_task_is_not_run_again(counting, tasks, tmp_path):
    first = evaluate(counting(), tasks, tmp_path)
    assert evaluate(counting(), tasks, tmp_path) == first
    assert counting.runs == 2
    evaluate(counting(), tasks, tmp_path, overwrite=True)
    assert counting.runs == 4


def test_other_data_another_limit_or_another_model_is_run_again(counting, data_dir, tasks, tmp_path):
    evaluate(counting(), tasks[:1], tmp_path)
    evaluate(counting(), tasks[:1], tmp_path, limit=2)
    assert counting.runs == 2
    queries = data_dir / "retrieval/tiny/queries.jsonl"
    queries.write_text(queries.read_text().replace("感冒", "流感"))
    evaluate(counting(), folder_tasks(data_dir)[0][:1], tmp_path)
    assert counting.runs == 3


def test_a_run_that_was_killed_goes_on_at_the_task_where_it_was(counting, tasks, tmp_path):
    class Killed(counting):
        def index(self, corpus, **options):
            if self.runs == 1:
                raise KeyboardInterrupt
            super().index(corpus, **options)

    with pytest.raises(KeyboardInterrupt):
        evaluate(Killed(), tasks, tmp_path)
    assert list(json.loads((tmp_path / "bm25/summary.json").read_text())["tasks"]) == ["retrieval/tiny"]
    lines = []
    summary = evaluate(counting(), tasks, tmp_path, progress=lines.append)
    assert list(summary["tasks"]) == ["retrieval/tiny", "reranking/tiny"]
    assert counting.runs == 1
    assert "finished before" in lines[0]
    assert "finished before" not in lines[1]


def test_tasks_finished_earlier_are_kept_when_others_are_asked_for(counting, tasks, tmp_path):
    evaluate(counting(), tasks[:1], tmp_path)
    evaluate(counting(), tasks[1:2], tmp_path)
    evaluate(counting(), tasks[:2], tmp_path)
    assert counting.runs == 2


def test_a_damaged_record_of_finished_tasks_only_costs_time(counting, tasks, tmp_path):
    first = evaluate(counting(), tasks[:1], tmp_path)
    (tmp_path / "bm25/finished.json").write_text("{half")
    again = evaluate(counting(), tasks[:1], tmp_path)
    assert again["average"] == first["average"]
    assert counting.runs == 2


def test_a_name_with_a_slash_is_one_folder(counting, tasks, tmp_path):
    model = counting()
    model.name = "owner/model"
    evaluate(model, tasks[:1], tmp_path)
    assert (tmp_path / "owner__model/summary.json").is_file()


def test_a_limited_run_leaves_the_full_one_finished(tiny_model, tasks, tmp_path):
    full = evaluate(tiny_model.as_mteb(), tasks, tmp_path)
    limited = evaluate(tiny_model.as_mteb(), tasks, tmp_path, limit=2)
    assert [entry["size"] for entry in limited["tasks"].values()] == [2, 2, 2]
    said = []
    again = evaluate(tiny_model.as_mteb(), tasks, tmp_path, progress=said.append)
    assert again["tasks"] == full["tasks"]
    assert all("finished before" in line for line in said)
    file = tmp_path / tiny_model.name / "retrieval__tiny.json"
    score = mteb.TaskResult.from_disk(file).scores["test"][0]["main_score"]
    assert score == pytest.approx(full["tasks"]["retrieval/tiny"]["main_score"], abs=1e-6)


def test_a_score_that_is_kept_keeps_the_manifest_of_the_run_that_made_it(tiny_model, tasks, tmp_path):
    evaluate(tiny_model.as_mteb(batch_size=7), tasks[:1], tmp_path, device="cpu")
    manifest = evaluate(tiny_model.as_mteb(batch_size=3), tasks, tmp_path, device="cuda")["manifest"]
    assert (manifest["batch_size"], manifest["device"]) == (3, "cuda")
    assert list(manifest["kept"]) == ["retrieval/tiny"]
    kept = manifest["kept"]["retrieval/tiny"]
    assert (kept["batch_size"], kept["device"]) == (7, "cpu")


def test_another_release_runs_again(tiny_model, tasks, tmp_path, monkeypatch):
    evaluate(tiny_model.as_mteb(), tasks[:1], tmp_path)
    monkeypatch.setattr("care_accel.eval.run.__version__", "0.0.0")
    said = []
    evaluate(tiny_model.as_mteb(), tasks[:1], tmp_path, progress=said.append)
    assert "finished before" not in said[0]


def test_another_model_of_the_same_name_is_said(tiny_folders, tiny_model, tasks, tmp_path, caplog):
    evaluate(tiny_model.as_mteb(), tasks[:1], tmp_path)
    assert caplog.text == ""
    other = DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset="care",
        width=8,
    )
    evaluate(other.as_mteb(), tasks[:1], tmp_path)
    assert "overwrites the summary of another model of the same name" in caplog.text


def test_a_model_that_tells_no_pair_from_another_is_said(tiny_model, tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(
        type(tiny_model.as_mteb()), "similarity_pairwise", lambda _, a, b: torch.zeros(len(a))
    )
    with pytest.raises(
        CareError, match=r"sts/tiny: spearman is nan, because .* gives every pair the same score"
    ):
        evaluate(tiny_model.as_mteb(), tasks[2:], tmp_path)
