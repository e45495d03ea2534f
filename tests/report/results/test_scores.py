import json

import pytest
import samples

from care_accel import CareError
from care_accel.report.results.scores import average_of, entry_of, read_evaluations, tasks_of


def test_baselines_come_after_models(tmp_path):
    samples.write_summaries(tmp_path, *map(samples.summary, sorted([*samples.MODELS, "zeta"])))
    assert [one.model for one in read_evaluations(tmp_path)] == [
        *("care-mini", "zeta", "care-mini-hybrid", "care-mini-document-twin", "bm25", "care-mini-untrained"),
    ]


def test_a_task_that_was_run_on_other_data_is_another_task(tmp_path):
    first, second = samples.summary("a"), samples.summary("b")
    second["tasks"]["retrieval/cmedir"]["size"] = 7
    samples.write_summaries(tmp_path, first, second)
    a, b = read_evaluations(tmp_path)
    sizes = [task.size for task in tasks_of([a, b]) if task.name == "retrieval/cmedir"]
    assert sizes == [7, 3000]
    small, large = (task for task in tasks_of([a, b]) if task.name == "retrieval/cmedir")
    assert entry_of(a, small) is None
    assert entry_of(b, small) == b.tasks["retrieval/cmedir"]
    assert average_of(a, [small, large]) is None


def test_an_average_is_of_all_tasks_or_none(tmp_path):
    samples.write_summaries(tmp_path, samples.summary("care-mini"), samples.summary("bm25"))
    model, words = read_evaluations(tmp_path)
    tasks = tasks_of([model, words])
    assert average_of(model, tasks) == pytest.approx(model.summary["average"])
    assert average_of(words, tasks) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("model"), "'model' is missing"),
        (lambda s: s.update(tasks=[]), "'tasks' is missing or not a dict"),
        (lambda s: s["tasks"].update(x=3), "task 'x' is not a JSON object"),
        (lambda s: s["tasks"]["sts/chip-sts"].pop("main_metric"), "task 'sts/chip-sts' has no 'main_metric'"),
        (lambda s: s["tasks"]["sts/chip-sts"].update(interval=[1]), "its interval is not a pair of numbers"),
        (
            lambda s: s["tasks"]["sts/chip-sts"].update(main_score="1"),
            "its score, size or interval is not a number",
        ),
    ],
)
def test_a_summary_that_lacks_something_is_named(tmp_path, change, words):
    summary = samples.summary("care-mini")
    change(summary)
    (tmp_path / "care-mini").mkdir()
    (tmp_path / "care-mini" / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(CareError, match=words) as error:
        read_evaluations(tmp_path)
    assert str(error.value).startswith(f"{tmp_path / 'care-mini' / 'summary.json'}: ")
