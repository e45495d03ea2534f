import argparse
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from care_accel import CareError
from care_accel.cli import main
from care_accel.eval.command import DEMO
from care_accel.eval.command import main as evaluate
from care_accel.eval.compare_command import add_arguments, print_comparison
from care_accel.eval.scores import QueryScores, read_scores, task_file
from care_accel.eval.statistics.compare import compare, query_texts, read_run
from care_accel.eval.trec import read_ranks


def write_run(folder, tasks, model="care", revision="r0", split="dev", skipped=()):
    """Write a run as an evaluation does: tasks are scores by name, or gold and similarities."""
    folder.mkdir(parents=True)
    entries = {}
    for name, values in tasks.items():
        values = np.array(values, dtype=float)
        if values.ndim == 2:
            scores = QueryScores(name, "pearson", "pearson", values[1], gold=values[0])
            score = np.corrcoef(values)[0, 1]
        else:
            queries = tuple(f"q{i}" for i in range(len(values)))
            scores = QueryScores(name, "ndcg_at_10", "mean", values, queries)
            score = values.mean()
        scores.write(task_file(folder, name, ".scores.json"))
        entries[name] = {
            "main_metric": scores.metric,
            "main_score": round(float(score), 5),
            "split": split,
            "size": len(scores),
        }
    summary = {
        "model": model,
        "tasks": entries,
        "skipped": [{"task": task, "reason": reason} for task, reason in skipped],
        "manifest": {"data": dict.fromkeys(tasks, revision), "limit": None},
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return read_run(folder)


def printed(comparison, texts=None, width=200):
    stream = io.StringIO()
    print_comparison(comparison, texts, Console(file=stream, width=width))
    return stream.getvalue()


def cells(text, word):
    line = next(line for line in text.splitlines() if word in line)
    return [cell.strip() for cell in line.split("│")[1:-1]]


GOLD, NEAR, FAR = [1.0, 2.0, 3.0, 5.0], [0.1, 0.2, 0.3, 0.5], [0.4, 0.2, 0.3, 0.5]


@pytest.fixture
def two(tmp_path):
    easy = [0.5] * 20
    a = write_run(
        tmp_path / "a", {"retrieval/x": [0.25] * 20, "reranking/x": easy, "sts/x": [GOLD, FAR]}, "one"
    )
    b = write_run(
        tmp_path / "b",
        {"retrieval/x": [0.75] * 18 + [0.0, 0.25], "reranking/x": easy, "sts/x": [GOLD, NEAR]},
        "two",
    )
    return a, b


def test_a_row_a_task_says_what_differs_and_whether_it_may_be_chance(two):
    text = printed(compare(*two))
    assert "A: one" in text
    assert "B: two" in text
    row = cells(text, "retrieval/x")
    assert row[:5] == ["retrieval/x", "nDCG@10", "25.00", "68.75", "+43.75"]
    assert row[7:] == ["B", "20", "18/1/1"]
    assert cells(text, "reranking/x")[4:] == ["+0.00", "+0.00 to +0.00", "1.0000", "-", "20", "0/20/0"]
    assert cells(text, "sts/x")[7:] == ["-", "4", ""]
    assert cells(printed(compare(*reversed(two))), "retrieval/x")[7] == "A"


def test_p_values_are_corrected_over_all_tasks_and_held_against_the_level(two):
    tasks = {one.difference.task: one.difference for one in compare(*two).tasks}
    assert tasks["retrieval/x"].adjusted == pytest.approx(3 * tasks["retrieval/x"].p_value)
    assert tasks["retrieval/x"].significant
    strict = compare(*two, level=1e-5)
    assert not any(one.difference.significant for one in strict.tasks)
    assert "99.999 % interval" in printed(strict)


def test_the_queries_that_changed_most_come_first_and_unchanged_ones_never(tmp_path):
    a = write_run(tmp_path / "a", {"retrieval/x": [0.5, 0.5, 0.5, 0.5, 0.5]})
    b = write_run(tmp_path / "b", {"retrieval/x": [0.6, 0.5, 0.9, 0.1, 0.6]})
    (task,) = compare(a, b).tasks
    assert [one.query for one in task.gained] == ["q2", "q0", "q4"]
    assert [(one.query, one.a, one.b) for one in task.lost] == [("q3", 0.5, 0.1)]
    (task,) = compare(a, b, top=1).tasks
    assert [one.query for one in task.gained] == ["q2"]
    assert "gained" not in printed(compare(a, b, top=0))


def test_a_run_compared_with_itself_differs_nowhere(two):
    text = printed(compare(two[0], two[0]))
    for task in two[0].tasks:
        assert cells(text, task)[4:8] == ["+0.00", "+0.00 to +0.00", "1.0000", "-"]
    assert "gained" not in text


def test_a_narrow_terminal_cuts_no_number(two):
    text = printed(compare(*two), width=80)
    assert "…" not in text
    for cell in ("25.00", "68.75", "+43.75", "18/1/1", "p (Holm)"):
        assert cell in text


def test_texts_and_names_are_shown_as_they_are_and_steer_no_terminal(two):
    texts = {"retrieval/x": {"q0": "[red]头痛[/red]\x1b[2J\n怎么办", "q1": "长" * 100}}
    text = printed(compare(*two), texts)
    assert "[red]头痛[/red]" in text
    assert "\x1b" not in text
    assert "长" * 60 + "…" in text
    assert "长" * 61 not in text


def test_a_set_named_like_markup_is_named_as_it_is(tmp_path):
    run = write_run(tmp_path / "[b]", {"retrieval/[red]": [0.1, 0.2]}, model="[i]")
    text = printed(compare(run, run))
    assert cells(text, "retrieval")[0] == "retrieval/[red]"
    assert f"A: [i] ({tmp_path}/[b])" in text


def test_a_task_of_one_run_only_is_named_with_the_reason_that_is_known(tmp_path):
    a = write_run(tmp_path / "a", {"retrieval/x": [0.1, 0.2], "sts/x": [GOLD, NEAR]})
    b = write_run(
        tmp_path / "b", {"retrieval/x": [0.1, 0.2], "retrieval/y": [0.1]}, skipped=[("sts/x", "no score")]
    )
    text = printed(compare(a, b))
    assert "not compared: sts/x: only in A (B: no score)" in text
    assert "not compared: retrieval/y: only in B\n" in text


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"revision": "r1"}, "different data: revision r0 in A, r1 in B"),
        ({"split": "test"}, "split dev in A, test in B"),
        ({"tasks": {"retrieval/x": [0.1]}}, "2 queries or pairs in A, 1 in B"),
        ({"tasks": {"retrieval/x": [GOLD, NEAR]}}, "metric ndcg_at_10 in A, pearson in B"),
    ],
)
def test_runs_that_did_not_measure_the_same_are_not_compared(tmp_path, other, reason):
    a = write_run(tmp_path / "a", {"retrieval/x": [0.1, 0.2]})
    b = write_run(tmp_path / "b", **{"tasks": {"retrieval/x": [0.1, 0.2]}, **other})
    with pytest.raises(CareError, match=f"nothing to compare: retrieval/x: {reason}"):
        compare(a, b)


def test_other_queries_of_as_many_are_not_compared(tmp_path):
    a, b = (write_run(tmp_path / name, {"retrieval/x": [0.1, 0.2], "retrieval/y": [0.1]}) for name in "ab")
    file = task_file(b.folder, "retrieval/x", ".scores.json")
    QueryScores("retrieval/x", "ndcg_at_10", "mean", np.array([0.1, 0.2]), ("q0", "q9")).write(file)
    assert "not compared: retrieval/x: the queries of the two runs are not the same" in printed(compare(a, b))


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.3], [0.4, 0.2]])
def test_scores_of_another_run_than_the_summary_beside_them_are_refused(tmp_path, values):
    a, b = (write_run(tmp_path / name, {"retrieval/x": [0.1, 0.2]}) for name in "ab")
    write_run(tmp_path / "c", {"retrieval/x": values})
    shutil.copy(tmp_path / "c/retrieval__x.scores.json", a.folder)
    with pytest.raises(CareError, match=r"a/retrieval__x\.scores\.json: does not belong to the summary"):
        compare(a, b)


# The command line, on real runs.

MODEL = "query_encoder+document_encoder"
TASKS = ("retrieval/care-demo", "reranking/care-demo", "sts/care-demo")


@pytest.fixture(scope="module")
def results(tiny_folders, tmp_path_factory):
    """Return the results of a tiny model and of BM25 on the embedded benchmark."""
    folder = tmp_path_factory.mktemp("compare") / "results"
    roles = [f"--{role}-model={tiny_folders / role}_encoder" for role in ("query", "document")]
    arguments = [*roles, "--preset=care", "--baseline=bm25", "--limit=30", "--device=cpu", "--save-run"]
    assert evaluate([*arguments, f"--output={folder}"]) == 0
    return folder


@pytest.fixture
def runs(results):
    return [str(results / "bm25"), str(results / MODEL)]


def fails_in_one_line(arguments, capsys):
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    return error


def test_two_evaluations_are_compared_with_texts_and_as_json(results, runs, tmp_path, capsys):
    file = tmp_path / "out.json"
    arguments = ["--data-dir", str(DEMO), "--json", str(file), "--top", "2"]
    assert main(["compare", *runs, *arguments]) == 0
    text = capsys.readouterr().out
    assert "not compared: sts/care-demo: only in B (A: bm25 does not support STS)" in text
    assert file.stat().st_mode & 0o077 == 0
    written = json.loads(file.read_text(encoding="utf-8"))
    assert (written["a"]["model"], written["b"]["model"]) == ("bm25", MODEL)
    assert [task["task"] for task in written["tasks"]] == list(TASKS[:2])
    assert [one["task"] for one in written["left_out"]] == ["sts/care-demo"]
    queries = query_texts(DEMO, read_run(runs[0]))
    for task in written["tasks"]:
        a, b = (
            read_scores(task_file(results / run, task["task"], ".scores.json")) for run in ("bm25", MODEL)
        )
        assert task["n"] == 30 == task["better"] + task["equal"] + task["worse"]
        assert task["difference"] == pytest.approx(b.values.mean() - a.values.mean())
        assert task["interval"][0] <= task["difference"] <= task["interval"][1]
        for one in (*task["gained"], *task["lost"]):
            assert one["b"] != one["a"] == a.values[a.queries.index(one["query"])]
            assert queries[task["task"]][one["query"]][:20] in text
            assert queries[task["task"]][one["query"]] not in file.read_text(encoding="utf-8")


def test_of_lost_queries_the_documents_that_fell_are_shown_where_rankings_were_saved(
    results, runs, tmp_path, capsys
):
    file = tmp_path / "out.json"
    assert main(["compare", *runs, "--json", str(file), "--top", "3"]) == 0
    text = capsys.readouterr().out
    assert "retrieval/care-demo: relevant documents that fell in the lost queries" in text
    assert "--save-run" not in text
    task = json.loads(file.read_text(encoding="utf-8"))["tasks"][0]
    assert {one["query"] for one in task["moved"]} == {one["query"] for one in task["lost"]}
    ranks = [
        read_ranks(task_file(results / run, task["task"], ".run"), [task["moved"][0]["query"]])
        for run in ("bm25", MODEL)
    ]
    first = task["moved"][0]
    assert [one[first["query"]].get(first["document"]) for one in ranks] == [first["a"], first["b"]]
    assert first["document"] in text


def test_rankings_of_another_run_are_not_shown(results, runs, tmp_path, capsys):
    other = tmp_path / MODEL
    shutil.copytree(results / MODEL, other)
    for file in other.glob("*.run"):
        file.write_text(file.read_text().replace(" query_encoder", " another"))
    assert main(["compare", runs[0], str(other)]) == 0
    text = capsys.readouterr().out
    assert "that fell" not in text
    assert "care-accel eval --save-run, for both runs, shows here which documents moved" in text


def test_a_task_without_scores_of_queries_is_not_compared(two):
    for run in two:
        run.tasks["reranking/x"]["interval"] = None
    comparison = compare(*two)
    assert "its score is not one of queries or pairs" in printed(comparison)
    assert [one.difference.task for one in comparison.tasks] == ["retrieval/x", "sts/x"]


def test_a_summary_stands_for_its_folder_and_no_text_is_shown_unasked(runs, capsys):
    assert main(["compare", runs[0], f"{runs[1]}/summary.json"]) == 0
    text = capsys.readouterr().out
    assert f"B: {MODEL}" in text
    assert not any(
        query in text
        for queries in query_texts(DEMO, read_run(runs[0])).values()
        for query in queries.values()
    )


def test_texts_are_found_by_content_whatever_the_set_is_called(runs, tmp_path):
    shutil.copytree(DEMO / "retrieval/care-demo", tmp_path / "retrieval/other-name")
    assert list(query_texts(tmp_path, read_run(runs[0]))) == ["retrieval/care-demo"]


def test_texts_of_data_that_was_not_measured_are_refused(runs, tmp_path, capsys):
    shutil.copytree(DEMO, tmp_path / "data")
    for file in (tmp_path / "data/retrieval/care-demo/qrels").iterdir():
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    error = fails_in_one_line([*runs, "--data-dir", str(tmp_path / "data")], capsys)
    assert "test files differ from those of" in error
    shutil.rmtree(tmp_path / "data/retrieval")
    shutil.rmtree(tmp_path / "data/reranking")
    error = fails_in_one_line([*runs, "--data-dir", str(tmp_path / "data")], capsys)
    assert "no retrieval or reranking set" in error


def test_a_run_without_scores_of_queries_is_to_be_run_again(results, runs, tmp_path, capsys):
    old = tmp_path / "old"
    shutil.copytree(results / MODEL, old)
    (old / "reranking__care-demo.scores.json").unlink()
    error = fails_in_one_line([runs[0], str(old)], capsys)
    assert "reranking__care-demo.scores.json: no such file" in error
    assert "run care-accel eval again" in error


def test_a_folder_of_runs_names_them(results, runs, capsys):
    error = fails_in_one_line([str(results), runs[1]], capsys)
    assert f"no summary.json; give one of {runs[0]}, {runs[1]}" in error


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        ("{half", "cannot be read as JSON"),
        ("{}", "not a summary of care-accel eval"),
        ('{"model": "x", "tasks": {"a": {}}, "manifest": {"data": {}}}', "not a summary of care-accel eval"),
        ('{"model": "x", "tasks": [], "manifest": {}}', "not a summary of care-accel eval"),
        ('{"model": "x", "tasks": {}, "skipped": 1, "manifest": {}}', "not a summary of care-accel eval"),
        ('{"model": "x", "tasks": {}, "skipped": [], "manifest": {}}', "nothing to compare"),
    ],
)
def test_what_is_no_run_is_one_line(runs, tmp_path, content, words, capsys):
    if content is not None:
        (tmp_path / "x.json").write_text(content)
    assert words in fails_in_one_line([runs[0], str(tmp_path / "x.json")], capsys)


@pytest.mark.parametrize(("place", "words"), [("nowhere/out.json", "is not a folder"), (".", "is a folder")])
def test_a_place_that_json_cannot_go_to_is_said_before_anything_is_read(tmp_path, place, words, capsys):
    assert words in fails_in_one_line(["no-run", "no-run", "--json", str(tmp_path / place)], capsys)


@pytest.mark.parametrize("options", [["--level", "0"], ["--level", "1"], ["--level", "nan"], ["--top", "-1"]])
def test_options_that_make_no_sense_are_refused(options):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["a", "b", *options])
    assert stop.value.code == 2
