import numpy as np
import pytest
import pytrec_eval
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from care_accel.errors import CareError
from care_accel.eval.scores import read_scores
from care_accel.eval.statistics.uncertainty import query_scores
from care_accel.eval.tasks import folder_tasks
from care_accel.eval.trec import check_ids, ranked, read_grades, read_ranks, run_tag, write_qrels, write_run

# Few values, and some that differ as float64 only: many ties.
SCORES = st.sampled_from([0.0, -0.5, 1.0, 1.0 + 1e-12, 0.1, 0.1 + 1e-9, 1e-30])
RANKINGS = st.dictionaries(
    st.sampled_from(["q0", "q1", "问"]),
    st.dictionaries(st.sampled_from(["d9", "d10", "D1", "文", "é", "d"]), SCORES, min_size=1),
    min_size=1,
)
RELEVANT = {query: {"d9": 1, "d10": 0, "文": 2, "d": 1} for query in ("q0", "q1", "问")}


def parsed(folder):
    """Return a run's file and its judgements as pytrec_eval reads them."""
    with (
        (folder / "a.run").open(encoding="utf-8") as run,
        (folder / "a.qrels").open(encoding="utf-8") as qrels,
    ):
        return pytrec_eval.parse_run(run), pytrec_eval.parse_qrel(qrels)


@given(RANKINGS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_scores_as_the_ranking_did_whatever_is_tied(tmp_path, rankings):
    write_run(tmp_path / "a.run", rankings, "tag")
    write_qrels(tmp_path / "a.qrels", RELEVANT)
    run, qrels = parsed(tmp_path)
    assert qrels == RELEVANT
    for metric in ("ndcg_at_10", "map_at_1000", "precision_at_1"):
        assert query_scores(metric, qrels, run) == query_scores(metric, RELEVANT, rankings)


@given(RANKINGS)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranks_are_those_that_trec_eval_counts(tmp_path, rankings):
    write_run(tmp_path / "a.run", rankings, "tag")
    ranks = read_ranks(tmp_path / "a.run", rankings)
    assert {query: set(scores) for query, scores in rankings.items()} == {q: set(r) for q, r in ranks.items()}
    for query, scores in rankings.items():
        for document, rank in ranks[query].items():
            # The reciprocal rank of the only relevant document says where trec_eval has it.
            evaluator = pytrec_eval.RelevanceEvaluator({query: {document: 1}}, {"recip_rank"})
            assert evaluator.evaluate({query: scores})[query]["recip_rank"] == pytest.approx(1 / rank)


def test_lines_have_six_columns_and_exact_scores(tmp_path):
    file = tmp_path / "a.run"
    write_run(file, {"q": {"a": 0.1, "b": 1 / 3, "c": 0.1}, "none": {}}, "model.1")
    assert file.read_text() == f"q Q0 b 1 {1 / 3!r} model.1\nq Q0 c 2 0.1 model.1\nq Q0 a 3 0.1 model.1\n"
    assert file.stat().st_mode & 0o077 == 0
    assert run_tag(file) == "model.1"
    assert ranked({"a": 1.0, "b": float(np.float32(2))}) == [("b", 2.0), ("a", 1.0)]


def test_a_file_that_is_no_run_has_no_tag_and_is_named_by_its_line(tmp_path):
    file = tmp_path / "a.run"
    assert run_tag(file) is None
    file.write_text("")
    assert run_tag(file) is None
    file.write_text("q Q0 d 1 0.5 t\nq Q0 d 2 0.5\n")
    with pytest.raises(CareError, match="line 2: 5 columns; expected a run: query, Q0"):
        read_ranks(file, ["q"])
    file.write_text("q Q0 d first 0.5 t\n")
    with pytest.raises(CareError, match="line 1: 'first' is not an integer"):
        read_ranks(file, ["q"])
    assert read_ranks(file, ["other"]) == {}
    file.write_text("q 0 d\n")
    with pytest.raises(CareError, match="line 1: 3 columns; expected judgements"):
        read_grades(file, ["q"])


@pytest.mark.parametrize("key", ["a b", "a\tb", " a", ""])
def test_an_id_with_a_space_has_no_place_in_a_file(key):
    check_ids("x", iter(["a", "问"]))
    with pytest.raises(CareError, match=r"x: the id .* has a space or is empty"):
        check_ids("x", iter(["a", key]))


@pytest.fixture
def evaluated(data_dir, tiny_model, tmp_path):
    """Return a function that evaluates a model with BM25 on the ranking tasks; it returns the folders of results."""
    from care_accel.eval.baselines import BM25Model
    from care_accel.eval.run import evaluate

    def run(folder="out", **options):
        tasks = folder_tasks(data_dir, patterns=["re*/*"])[0]
        models = BM25Model(), tiny_model.as_mteb()
        return {model.name: evaluate(model, tasks, tmp_path / folder, **options) for model in models}

    run.folder = tmp_path
    return run


def test_saved_rankings_score_as_the_evaluation_says(evaluated):
    for name, summary in evaluated(save_run=True).items():
        for task, entry in summary["tasks"].items():
            stem = evaluated.folder / "out" / name / task.replace("/", "__")
            run, qrels = (
                parse(file.open(encoding="utf-8"))
                for parse, file in (
                    (pytrec_eval.parse_run, stem.with_name(f"{stem.name}.run")),
                    (pytrec_eval.parse_qrel, stem.with_name(f"{stem.name}.qrels")),
                )
            )
            scores = query_scores(entry["main_metric"], qrels, run)
            # ``trec_eval -c``: a query without any document counts 0.
            mean = sum(scores.values()) / len(qrels)
            assert mean == pytest.approx(entry["main_score"], abs=5.1e-6)  # mteb keeps five digits
            ours = read_scores(stem.with_name(f"{stem.name}.scores.json"))
            assert {q: s for q, s in zip(ours.queries, ours.values, strict=True) if s} == {
                q: s for q, s in scores.items() if s
            }
            assert run_tag(stem.with_name(f"{stem.name}.run")) == entry["run"]


def test_a_finished_task_is_run_again_only_for_rankings_that_are_not_there(evaluated):
    said = []
    assert not any("run" in e for s in evaluated().values() for e in s["tasks"].values())
    assert not list(evaluated.folder.glob("out/*/*.run"))
    evaluated(save_run=True, progress=said.append)
    assert not any("finished before" in line for line in said)
    said.clear()
    again = evaluated(save_run=True, progress=said.append)
    assert all("finished before" in line for line in said)
    assert all("run" in entry for summary in again.values() for entry in summary["tasks"].values())
    # Those of another run are no part of this one.
    assert not any("run" in e for s in evaluated(limit=1).values() for e in s["tasks"].values())


def test_ids_that_a_run_cannot_hold_are_said_before_anything_is_encoded(evaluated, data_dir):
    file = data_dir / "retrieval/tiny/queries.jsonl"
    file.write_text(file.read_text().replace('"q0"', '"q 0"'))
    qrels = data_dir / "retrieval/tiny/qrels/test.tsv"
    qrels.write_text(qrels.read_text().replace("q0", "q 0"))
    evaluated()
    with pytest.raises(CareError, match="retrieval/tiny: the id 'q 0' has a space"):
        evaluated("other", save_run=True)
