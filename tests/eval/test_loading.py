import os
import subprocess
import sys

import mteb
import pytest
from hub_mirror import mirror

from care_accel.errors import CareError
from care_accel.eval.baselines import BM25Model
from care_accel.eval.folder import find_sets
from care_accel.eval.loading import cached_snapshot, load
from care_accel.eval.run import evaluate
from care_accel.eval.scores import read_scores
from care_accel.eval.tasks import folder_tasks


def test_a_limit_keeps_the_first_queries_or_pairs_and_every_document(data_dir):
    whole, _ = folder_tasks(data_dir)
    tasks = [load(task, limit=2) for task in whole]
    ranking, reranking, pairs = (task.dataset["default"]["test"] for task in tasks)
    assert list(ranking["queries"]["id"]) == ["q0", "q1"]
    assert set(ranking["relevant_docs"]) == {"q0", "q1"}
    assert len(ranking["corpus"]) == 5
    assert len(reranking["queries"]) == 2
    assert len(pairs) == 2
    assert len(whole[0].dataset["default"]["test"]["queries"]) == 3
    assert len(whole[2].dataset["default"]["test"]) == 4


def test_pairs_with_a_single_score_are_refused_before_anything_is_encoded(data_dir):
    tasks, _ = folder_tasks(data_dir, patterns=["sts/*"])
    with pytest.raises(CareError, match="sts/tiny: correlation is undefined for 1 pairs"):
        load(tasks[0], limit=1)


def test_data_of_mteb_that_cannot_be_downloaded_is_one_line(monkeypatch):
    task = mteb.get_task("CMedQAv1-reranking")

    def fail(**_):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr(task, "load_data", fail)
    with pytest.raises(CareError, match="CMedQAv1-reranking: cannot be loaded: no route"):
        load(task)


def cached(hub_cache, name, configs, split="dev", revision=None):
    """Return a task of mteb whose data is in the cache."""
    task = mteb.get_task(name)
    task.folder = hub_cache.add(
        task.metadata.dataset["path"], revision or task.metadata.dataset["revision"], split, configs
    )
    return task


def test_a_task_of_mteb_is_read_from_the_hub_s_cache_and_scores_as_its_folder_does(hub_cache, tmp_path):
    task = cached(hub_cache, "CmedqaRetrieval", hub_cache.ranking())
    (from_folder,), _ = folder_tasks(task.folder, "dev")
    assert type(task) is type(mteb.get_task("CmedqaRetrieval"))
    summary = evaluate(BM25Model(), [task, from_folder], tmp_path / "out")
    ours, theirs = summary["tasks"]["CmedqaRetrieval"], summary["tasks"]["retrieval/CmedqaRetrieval"]
    assert 0 < ours["main_score"] < 1
    assert [theirs[name] for name in ("main_score", "interval", "split", "size")] == [
        ours[name] for name in ("main_score", "interval", "split", "size")
    ]
    assert summary["manifest"]["data"]["CmedqaRetrieval"] == task.metadata.dataset["revision"]
    assert task.metadata.dataset["path"] == "mteb/CmedqaRetrieval"


def test_a_reranking_task_of_mteb_ranks_its_candidates(hub_cache, tmp_path):
    configs = hub_cache.ranking({10: [0, 4], 11: [1, 2, 3], 12: [3, 2]})
    task = cached(hub_cache, "T2Reranking", configs)
    (from_folder,), _ = folder_tasks(task.folder, "dev")
    summary = evaluate(BM25Model(), [task, from_folder], tmp_path / "out", save_run=True)
    scores = [summary["tasks"][name]["main_score"] for name in ("T2Reranking", "reranking/T2Reranking")]
    assert scores[0] == scores[1]
    runs = [tmp_path / f"out/bm25/{name}.run" for name in ("T2Reranking", "reranking__T2Reranking")]
    first, second = ([line.split()[:5] for line in run.read_text().splitlines()] for run in runs)
    assert sorted(first) == sorted(second)
    assert len(first) == 7


def test_an_sts_task_of_mteb_keeps_its_own_metric_and_its_pairs(hub_cache, tiny_model, tmp_path):
    rows = [
        {"sentence1": "头痛怎么办", "sentence2": text, "score": score}
        for text, score in (("头疼怎么办", 5), ("肚子痛", 1), ("头痛", 4), ("咳嗽三天", 0))
    ]
    task = cached(hub_cache, "ATEC", {"default": rows}, "test").filter_eval_splits(["test"])
    summary = evaluate(tiny_model.as_mteb(), [load(task)], tmp_path)
    entry = summary["tasks"]["ATEC"]
    assert (entry["main_metric"], entry["size"]) == ("cosine_spearman", 4)
    scores = read_scores(tmp_path / tiny_model.name / "ATEC.scores.json")
    assert scores.kind == "spearman"
    assert entry["interval"][0] <= entry["main_score"] <= entry["interval"][1]
    limited = load(load(task, limit=3), limit=3)
    assert len(limited.dataset["test"]) == 3
    assert len(task.dataset["test"]) == 4


@pytest.mark.filterwarnings("ignore:.*superseded", "ignore:.*ill-defined")
def test_a_task_of_another_kind_has_a_score_and_no_scores_of_queries(hub_cache, tiny_model, tmp_path):
    texts = ["头痛", "头疼", "好吃", "难吃", "咳嗽", "美味"]
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts * 6)]
    task = cached(hub_cache, "Waimai", {"default": rows}, "test")
    hub_cache.add(
        task.metadata.dataset["path"], task.metadata.dataset["revision"], "train", {"default": rows}
    )
    readme = task.folder / "snapshots" / task.metadata.dataset["revision"] / "README.md"
    files = "".join(f"  - split: {s}\n    path: default/{s}-*\n" for s in ("train", "test"))
    readme.write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    with pytest.raises(CareError, match="Waimai: --limit is for retrieval, reranking and STS"):
        load(task, limit=2)
    summary = evaluate(tiny_model.as_mteb(), [task], tmp_path, save_run=True)
    entry = summary["tasks"]["Waimai"]
    assert entry["interval"] is None
    assert 0 <= entry["main_score"] <= 1
    assert entry["size"] == 36
    assert not (tmp_path / tiny_model.name / "Waimai.scores.json").exists()
    said = []
    evaluate(tiny_model.as_mteb(), [task], tmp_path, save_run=True, progress=said.append)
    assert "finished before" in said[0]


def test_what_is_missing_of_a_task_is_one_line_with_the_ways_to_it(hub_cache):
    task = mteb.get_task("CovidRetrieval")
    with pytest.raises(CareError) as error:
        load(task)
    text = str(error.value)
    assert "\n" not in text
    revision = task.metadata.dataset["revision"]
    for words in (
        "CovidRetrieval: cannot be loaded: ",
        f"mteb/CovidRetrieval at revision {revision[:7]} is not there in {hub_cache.folder}",
        f"hf download --repo-type dataset mteb/CovidRetrieval --revision {revision}",
        "HF_ENDPOINT",
        "ModelScope",
    ):
        assert words in text


def test_what_was_downloaded_from_a_mirror_is_found(hub_cache, tmp_path, monkeypatch):
    repository, revision = "mteb/CovidRetrieval", mteb.get_task("CovidRetrieval").metadata.dataset["revision"]
    original = hub_cache.add(repository, revision, "dev", hub_cache.ranking())
    home = tmp_path / "other"
    code = "from huggingface_hub.cli.hf import main; main()"
    with mirror({f"datasets/{repository}": original / "snapshots" / revision}, revision) as served:
        environment = {**os.environ, "HF_ENDPOINT": served.address, "HF_HOME": str(home)}
        command = ["download", "--repo-type", "dataset", repository, "--revision", revision]
        subprocess.run(
            [sys.executable, "-c", code, *command], env=environment, capture_output=True, check=True
        )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
    task = load(mteb.get_task("CovidRetrieval"))
    assert len(task.dataset["default"]["dev"]["corpus"]) == 5
    (found,) = find_sets(home / "hub")
    assert found.name == "retrieval/CovidRetrieval"
    assert len(found.read("dev").documents) == 5


def test_a_revision_that_mteb_does_not_name_is_not_taken(hub_cache):
    task = cached(hub_cache, "CovidRetrieval", hub_cache.ranking(), revision="f" * 40)
    assert cached_snapshot("mteb/CovidRetrieval", "f" * 40) is not None
    with pytest.raises(CareError, match="is not there in"):
        load(task)


@pytest.mark.parametrize("lost", ["queries", "shard"])
def test_a_download_that_is_not_whole_is_not_scored(hub_cache, lost):
    task = cached(hub_cache, "CovidRetrieval", hub_cache.ranking())
    snapshot = next((task.folder / "snapshots").iterdir())
    if lost == "queries":
        (snapshot / "queries/dev-00000-of-00001.parquet").unlink()
    else:
        shard = snapshot / "corpus/dev-00000-of-00001.parquet"
        shard.rename(shard.with_name("dev-00000-of-00002.parquet"))
    with pytest.raises(CareError, match=r"CovidRetrieval: cannot be loaded: .* is incomplete in"):
        load(task)
