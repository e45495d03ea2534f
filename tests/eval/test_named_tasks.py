import mteb
import pytest

from care_accel.errors import CareError
from care_accel.eval.named_tasks import benchmark_tasks, load_available, named_tasks


def names(tasks):
    return [task.metadata.name for task in tasks]


def test_tasks_have_mteb_s_names_and_one_split_each():
    tasks = named_tasks(["CmedqaRetrieval", "T2Reranking", "STSB", "CmedqaRetrieval"])
    assert {t.metadata.name: list(t.eval_splits) for t in tasks} == {
        "CmedqaRetrieval": ["dev"],
        "T2Reranking": ["dev"],
        "STSB": ["test"],
    }
    assert [list(t.eval_splits) for t in named_tasks(["STSB"], "validation")] == [["validation"]]


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        (
            "CmedQARetrieval",
            None,
            "--mteb CmedQARetrieval: mteb has no such task; did you mean CmedqaRetrieval",
        ),
        ("CmedqaRetrieval", "test", r"has no split 'test' \(has dev\)"),
        ("CQADupstackRetrieval", None, "is an aggregate of other tasks"),
        ("CIFAR10", None, "needs image; only text is encoded here"),
    ],
)
def test_a_task_that_cannot_be_run_is_said_before_anything_is_loaded(name, split, words):
    with pytest.raises(CareError, match=words):
        named_tasks([name], split)


def test_a_benchmark_gives_its_tasks_and_leaves_mteb_s_own_alone():
    tasks, skipped = benchmark_tasks("MTEB(cmn, v1)")
    assert {"CmedqaRetrieval", "T2Reranking", "ATEC", "Waimai"} <= set(names(tasks))
    assert skipped == []
    assert all(len(task.eval_splits) == 1 for task in tasks)
    theirs = {id(task) for task in mteb.get_benchmark("MTEB(cmn, v1)").tasks}
    assert not theirs & {id(task) for task in tasks}
    assert names(benchmark_tasks("MTEB(cmn, v1)", None, ["CMedQA*"])[0]) == [
        "CMedQAv1-reranking",
        "CMedQAv2-reranking",
    ]


def test_tasks_of_a_benchmark_without_the_split_are_skipped():
    tasks, skipped = benchmark_tasks("MTEB(cmn, v1)", "dev")
    assert "CmedqaRetrieval" in names(tasks)
    assert {one.task: one.reason for one in skipped}["ATEC"] == "has no split 'dev' (has test)"
    with pytest.raises(CareError, match="nothing to run: ATEC has no split 'dev'"):
        benchmark_tasks("MTEB(cmn, v1)", "dev", ["ATEC"])


def test_a_benchmark_that_is_not_there_is_said_with_the_nearest_name():
    with pytest.raises(CareError, match=r"mteb has no such benchmark; did you mean MTEB\(cmn, v1\)"):
        benchmark_tasks("MTEB(cmn v1)")


@pytest.fixture
def two(hub_cache):
    """Return two tasks, of which the first has data."""
    tasks = named_tasks(["CmedqaRetrieval", "CovidRetrieval"])
    dataset = tasks[0].metadata.dataset
    hub_cache.add(dataset["path"], dataset["revision"], "dev", hub_cache.ranking())
    return tasks


def test_every_task_without_data_has_its_line_and_one_is_enough_to_stop(two):
    lines = []
    with pytest.raises(CareError, match="1 of 2 tasks cannot be loaded: CovidRetrieval"):
        load_available(two, report=lines.append)
    (line,) = lines
    assert line.startswith("CovidRetrieval: cannot be loaded: ")
    with pytest.raises(CareError, match="CovidRetrieval: cannot be loaded: "):
        load_available(two)


def test_a_benchmark_goes_on_with_the_tasks_that_have_data(two):
    lines = []
    loaded, skipped = load_available(two, keep_going=True, report=lines.append)
    assert names(loaded) == ["CmedqaRetrieval"]
    assert [one.task for one in skipped] == ["CovidRetrieval"]
    assert skipped[0].reason.startswith("cannot be loaded: ")
    with pytest.raises(CareError, match="1 of 1 tasks cannot be loaded"):
        load_available(two[1:], keep_going=True, report=lines.append)
