import io

from rich.console import Console

from care_accel.eval.report import print_report, published_scores


def summary(model, tasks):
    entries = {
        name: {"main_metric": "ndcg_at_10", "main_score": score, "split": split, "size": size}
        for name, (score, split, size) in tasks.items()
    }
    scores = [e["main_score"] for e in entries.values()]
    average = sum(scores) / len(scores)
    return {
        "model": model,
        "tasks": entries,
        "average": average,
        "skipped": [],
        "manifest": {"limit": None},
    }


def printed(summaries):
    stream = io.StringIO()
    print_report(summaries, Console(file=stream, width=200))
    return stream.getvalue()


def test_a_row_a_task_and_a_column_a_model_in_percent():
    one = summary("care", {"retrieval/a": (0.5, "dev", 3), "sts/b": (0.25, "dev", 3)})
    two = summary("bm25", {"retrieval/a": (0.125, "dev", 3)})
    text = printed([one, two])
    row = next(line for line in text.splitlines() if "retrieval/a" in line)
    assert "50.00" in row
    assert "12.50" in row
    assert "25.00" in next(line for line in text.splitlines() if "sts/b" in line)


def test_an_average_over_fewer_tasks_is_not_printed():
    one = summary("care", {"retrieval/a": (0.5, "dev", 3), "sts/b": (0.25, "dev", 3)})
    two = summary("bm25", {"retrieval/a": (0.125, "dev", 3)})
    row = next(line for line in printed([one, two]).splitlines() if "average" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == ["average", "", "", "37.50", "-"]


def test_published_scores_stand_beside_the_very_same_task_only():
    same = summary("care", {"CMedTEB-STS": (0.8, "test", 5000)})
    assert published_scores(same)["CARE-0.3B-4B"] == {"CMedTEB-STS": 88.53}
    assert "CARE-0.3B-8B" in printed([same])
    for other in (
        {"sts/chip-sts": (0.8, "test", 5000)},
        {"CMedTEB-STS": (0.8, "test", 100)},
        {"CMedTEB-STS": (0.8, "dev", 5000)},
    ):
        assert published_scores(summary("care", other)) == {}
        assert "CARE-0.3B-8B" not in printed([summary("care", other)])


def test_skipped_sets_are_named_once():
    one, two = (summary(name, {"retrieval/a": (0.5, "dev", 3)}) for name in ("care", "bm25"))
    for s in (one, two):
        s["skipped"] = [{"task": "sts/b", "reason": "has no split 'dev' (has train)"}]
    assert printed([one, two]).count("not run: sts/b: has no split 'dev' (has train)") == 1


def test_a_cut_set_is_not_the_same_task():
    whole = summary("care", {"CMedTEB-Retrieval": (0.5, "test", 734)})
    assert published_scores(whole)
    whole["manifest"]["limit"] = 734
    assert published_scores(whole) == {}
