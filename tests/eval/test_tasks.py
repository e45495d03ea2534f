import shutil

import mteb
import pytest
from mteb.benchmarks import Benchmark

from care_accel.errors import CareError
from care_accel.eval.tasks import cmedteb, cmedteb_tasks, folder_tasks, select


def names(tasks):
    return [task.metadata.name for task in tasks]


def test_a_folder_gives_a_task_a_set_with_the_field_s_metric(data_dir):
    tasks, skipped = folder_tasks(data_dir)
    assert {t.metadata.name: t.metadata.main_score for t in tasks} == {
        "retrieval/tiny": "ndcg_at_10",
        "reranking/tiny": "map_at_1000",
        "sts/tiny": "spearman",
    }
    assert skipped == []


def test_in_sts_the_first_sentence_is_the_query_and_the_second_the_document(data_dir):
    task = folder_tasks(data_dir, patterns=["sts/*"])[0][0]
    assert (task.input1_prompt_type.value, task.input2_prompt_type.value) == ("query", "document")


def test_a_pair_or_reranking_set_without_the_split_is_skipped_with_a_note(data_dir):
    shutil.copy(data_dir / "retrieval/tiny/qrels/test.tsv", data_dir / "retrieval/tiny/qrels/dev.tsv")
    tasks, skipped = folder_tasks(data_dir, "dev")
    assert names(tasks) == ["retrieval/tiny"]
    assert [s.task for s in skipped] == ["reranking/tiny", "sts/tiny"]
    assert "has no split 'dev' (has test)" in skipped[0].reason


def test_a_retrieval_set_without_the_split_is_an_error(data_dir):
    with pytest.raises(CareError, match=r"qrels/dev\.tsv"):
        folder_tasks(data_dir, "dev")


def test_nothing_left_to_run_is_an_error(data_dir):
    with pytest.raises(CareError, match="nothing to run: sts/tiny has no split 'dev'"):
        folder_tasks(data_dir, "dev", ["sts/tiny"])


def test_patterns_choose_and_one_that_matches_nothing_is_refused():
    known = ["retrieval/a", "sts/b", "sts/c"]
    assert select(known, []) == known
    assert select(known, ["sts/*"]) == ["sts/b", "sts/c"]
    assert select(known, ["sts/c", "retrieval/a"]) == ["retrieval/a", "sts/c"]
    with pytest.raises(CareError, match="'sts/x' matches none of retrieval/a, sts/b, sts/c"):
        select(known, ["sts/x"])


def cmedteb_folder(data_dir):
    for kind in ("retrieval", "reranking", "sts"):
        (data_dir / kind / "tiny").rename(data_dir / kind / "cmedteb")
    return data_dir


def test_cmedteb_is_a_benchmark_of_the_paper_s_five_tasks_with_its_metrics(data_dir):
    benchmark = cmedteb(cmedteb_folder(data_dir))
    assert isinstance(benchmark, Benchmark)
    assert {t.metadata.name: t.metadata.main_score for t in benchmark.tasks} == {
        "CMedTEB-Retrieval": "ndcg_at_10",
        "CMedTEB-Reranking": "map_at_1000",
        "CMedTEB-STS": "pearson",
        "CMedQAv1-reranking": "map_at_1000",
        "CMedQAv2-reranking": "map_at_1000",
    }
    public = {t.metadata.name: type(t) for t in benchmark.tasks}["CMedQAv1-reranking"]
    assert public is type(mteb.get_task("CMedQAv1-reranking"))


def test_cmedteb_is_read_from_a_hub_data_set_when_no_folder_has_the_name(data_dir, monkeypatch):
    asked = []

    def download(name, repo_type):
        asked.append((name, repo_type))
        return str(cmedteb_folder(data_dir))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    task = cmedteb_tasks("someone/cmedteb", patterns=["CMedTEB-STS"])[0]
    task.load_data()
    assert asked == [("someone/cmedteb", "dataset")]
    assert len(task.dataset["default"]["test"]) == 4


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def download(name, repo_type):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(CareError, match=r"someone/cmedteb: no such folder.*no route"):
        cmedteb_tasks("someone/cmedteb")
