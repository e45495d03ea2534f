"""The page as text: its contents equal the measurements, and no text is interpreted as markup."""

import json
import math
import re

import numpy as np
import pytest
import samples

from care_accel import CareError
from care_accel.eval.scores import QueryScores, task_file
from care_accel.report import write_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"


def test_the_numbers_of_peers_are_those_that_were_measured(page, everything):
    found = page(*everything)
    for row in samples.all_rows():
        if row["suite"] in ("scaling", "tradeoff"):
            continue
        cells = found.rows(row["group"])[row["name"]]
        for column, key in (
            ("over ours", "ratio"),
            ("p50, ms", "p50_ms"),
            ("p95", "p95_ms"),
            ("p99", "p99_ms"),
        ):
            text, number = cells[column]
            assert number == row[key]
            assert float(text.replace(",", "")) == pytest.approx(row[key], rel=5.01e-3)
        assert "noisy" in cells[""][0] if row["noisy"] else "noisy" not in cells[""][0]
        if row["limit"]:
            assert cells["of the limit"] == ("83 %", 0.83)


def test_scores_and_intervals_are_those_of_the_summaries(page, everything):
    found = page(*everything)
    rows = found.rows("Models on the same tasks")
    for model in samples.MODELS:
        tasks = samples.summary(model)["tasks"]
        for name in samples.TASKS:
            text, number = rows[name][model]
            if name not in tasks:
                assert (text, number) == ("–", None)
                continue
            assert number == tasks[name]["main_score"]
            assert text == f"{100 * number:.2f}"
            low, high = (f"{100 * bound:.1f}" for bound in tasks[name]["interval"])
            assert f"<small>{low} to {high}</small>" in found.html
    assert rows["average"]["bm25"] == ("–", None)
    assert rows["average"]["care-mini"][1] == samples.summary("care-mini")["average"]


def test_accuracy_against_latency_has_every_configuration_and_marks_the_front(page, everything):
    found = page(*everything)
    rows = found.rows("retrieval/cmedir, one query at a time")
    measured = {r["name"]: r for r in samples.tradeoff_rows() if r["quality"]["task"] == "retrieval/cmedir"}
    assert rows.keys() == measured.keys()
    for name, row in measured.items():
        assert rows[name]["score"][1] == row["quality"]["score"]
        assert rows[name]["ms per query, p50"][1] == row["p50_ms"]
        assert rows[name]["index, MB"][1] == row["bytes"]
        beaten = any(
            o["p50_ms"] <= row["p50_ms"] and o["quality"]["score"] >= row["quality"]["score"] and o is not row
            for o in measured.values()
            if not o["noisy"]
        )
        assert ("on the Pareto front" in rows[name][""][0]) == (not beaten and not row["noisy"])


def test_asymmetric_and_symmetric_are_one_table(page, everything):
    found = page(*everything)
    title = "The asymmetric model as a share of the symmetric one"
    rows = found.rows(title)
    line = rows["query encoder, not document encoder"]
    assert line["speed-up"] == ("31.5x", pytest.approx(410 / 13, rel=1e-4))
    assert line["model, MB"][1] == 1.2e9
    assert line["retained"] == ("–", None)
    line = rows["3. care-mini 256 float32, not symmetric twin"]
    assert line["retained"][1] == pytest.approx(line["score"][1] / 0.312)
    # What has no accuracy is folded away: one table and one plot are in sight.
    (first, second) = [lines for name, lines in found.tables if name == title]
    assert [line[0][0] for line in second[1:]] == ["query encoder, not document encoder"]
    assert len(first) == 1 + 4
    assert found.html.count("Time, accuracy and memory of 4 asymmetric models") == 2  # wide and narrow


def test_growth_has_every_point_with_its_distance_from_the_line(page, everything):
    found = page(*everything)
    title = "Time over vectors in the index (width 768, k 10, queries 1, threads 2)"
    rows = found.rows(title)
    measured = [row for row in samples.scaling_rows() if row["parameters"]["over"] == "vectors"]
    for row in measured:
        line = rows[f"{row['parameters']['vectors']:,}"]
        assert line["ms per query"][1] == row["p50_ms"]
        assert line["off by"][1] == pytest.approx(1 - line["on the line"][1] / row["p50_ms"])
        assert line["bytes per document"][1] == row["bytes"] / row["parameters"]["vectors"]
    assert "up to 10,000 vectors the data fits in the last-level cache" in found.text
    # Beyond the points that it was fitted to, the line is extrapolated and says so.
    assert found.html.count("<small>extrapolated</small>") == 1
    assert "ms per million vectors and, extrapolated to zero," in found.text
    assert "2 points, too few for a line" in found.text


def test_parts_of_a_query_s_time_are_those_that_were_measured(page, everything):
    rows = page(*everything).rows("retriever: text to top 10 of 29,037 titles, one query")
    assert {part: rows["care_accel"][part][1] for part in ("tokenize", "encode", "scan")} == {
        "tokenize": 40,
        "encode": 150,
        "scan": 90,
    }
    assert rows["care_accel"]["together, us"][1] == 280
    assert rows["sentence-transformers, faiss"]["tokenize"] == ("–", None)


def test_each_figure_says_which_hardware_and_run_it_is_of(page, everything):
    html = page(*everything).html
    for title in ("top 10 of 200,000 x 768, gaussian, 1 at a time", "retrieval/cmedir, one query at a time"):
        assert re.search(
            f'<b>{re.escape(title)}</b><span class="where">AMD EPYC, 2 cores · 2 threads · size default · '
            "revision 0080916 · 2026-11-25</span>",
            html,
        )
    assert "Intel Xeon, 2 cores, NVIDIA H100 80GB HBM3 · 16 threads" in html
    measured, _, manifest = html.partition('id="manifest"')
    assert manifest
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", measured, re.DOTALL)
    assert [
        one for one in captions if not re.search('class="where">(computed with Linux|AMD|Intel)', one)
    ] == []


def test_several_machines_are_parts_of_their_own_and_one_can_be_chosen(page, everything):
    both = page(*everything)
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", both.html)
    assert headings == [
        "Accuracy",
        "AMD EPYC, 2 cores",
        "Intel Xeon, 2 cores, NVIDIA H100 80GB HBM3",
        "Manifest",
    ]
    one = page(*everything, machine="nvidia-h100-80gb-hbm3")
    assert "AMD EPYC" not in one.text
    assert one.rows("on the card, top 10 of 1,000,000 x 768")["care_accel"]["p50, ms"][1] == 0.41


def test_a_group_that_the_latest_run_lacks_says_which_run_it_is_of(page, tmp_path):
    old = samples.run(samples.scan_rows(), started="2026-11-01T00:00:00Z", revision="0ld")
    new = samples.run(samples.retriever_rows(), revision="ne3")
    samples.write_machine(tmp_path / "bench", samples.machine(), old, new)
    text = page(tmp_path, tmp_path / "bench").text
    assert "Not in the latest run (2026-11-25 23:15) but in that of 2026-11-01 00:00, revision 0ld." in text
    assert text.count("Not in the latest run") == len({row["group"] for row in samples.scan_rows()})


def test_what_is_missing_is_said_and_no_error(page, tmp_path):
    samples.write_summaries(tmp_path / "results", samples.summary("care-mini"))
    text = page(tmp_path / "results", tmp_path / "bench").text
    assert "No benchmark has been run: pytest bench --benchmark-only" in text
    assert "so there are no published scores to compare with" in text
    samples.write_machine(tmp_path / "bench", samples.machine(), samples.run(samples.scan_rows()))
    text = page(tmp_path / "nothing", tmp_path / "bench").text
    assert "No model has been evaluated: care-accel eval" in text
    assert "No benchmark of this kind has been run here: pooling, approximate, scaling" in text
    for title in ("Accuracy against latency", "Asymmetric against symmetric", "Where a query's time goes"):
        assert re.search(f"{title}: No .*--benchmark-only", text)


def test_smoke_times_are_said_to_prove_nothing(page, tmp_path):
    samples.write_machine(tmp_path, samples.machine(), samples.run(samples.scan_rows(), size="smoke"))
    assert "its times prove nothing" in page(tmp_path, tmp_path).text
    samples.write_machine(tmp_path, samples.machine(), samples.run(samples.scan_rows()))
    assert "its times prove nothing" not in page(tmp_path, tmp_path).text


def test_published_rows_stand_beside_the_same_tasks_only(page, tmp_path):
    same = {"CMedTEB-Retrieval": ("ndcg_at_10", "Retrieval", 734)}
    samples.write_summaries(tmp_path / "a", samples.summary("mine", same, split="test"))
    rows = page(tmp_path / "a", tmp_path).rows("As the paper states them")
    assert rows["CARE-0.3B-4B"] == {"model": ("CARE-0.3B-4B", None), "CMedTEB-Retrieval": ("55.91", 55.91)}
    assert "mine (measured here)" in rows
    samples.write_summaries(tmp_path / "b", samples.summary("mine", same, split="test", limit=10))
    found = page(tmp_path / "b", tmp_path)
    assert found.rows("As the paper states them") == {}
    assert "the first 10 queries or pairs" in found.text


def scored(folder, model, scores):
    """Write a model's summary, with the per-query scores of one task."""
    summary = samples.summary(model, {"retrieval/a": ("ndcg_at_10", "Retrieval", len(scores))})
    summary["tasks"]["retrieval/a"]["main_score"] = sum(scores) / len(scores)
    samples.write_summaries(folder, summary)
    ids = tuple(f"q{i}" for i in range(len(scores)))
    each = QueryScores("retrieval/a", "ndcg_at_10", "mean", np.array(scores), ids)
    each.write(task_file(folder / model, "retrieval/a", ".scores.json"))


def test_differences_from_the_first_model_are_paired_and_tested(page, tmp_path):
    scored(tmp_path, "care-mini", [0.5] * 40)
    scored(tmp_path, "bm25", [0.6] * 39 + [0.5])
    scored(tmp_path, "care-mini-hybrid", [0.4, 0.6] * 20)
    samples.write_summaries(tmp_path, samples.summary("care-mini-untrained"))
    found = page(tmp_path, tmp_path)
    line = found.rows("bm25 less care-mini")["retrieval/a"]
    assert line["difference"] == ("+9.75", pytest.approx(0.0975))
    assert line["p, corrected"][1] < 0.001
    assert line["at 0.05"][0] == "significant"
    assert [line[name][1] for name in ("queries better", "equal", "worse")] == [39, 1, 0]
    line = found.rows("care-mini-hybrid less care-mini")["retrieval/a"]
    assert (line["difference"][0], line["at 0.05"][0]) == ("+0.00", "not significant")
    assert re.search("care-mini-untrained: .*nothing to compare", found.text)


def hostile(value):
    """Return results in which every text is hostile."""
    if isinstance(value, dict):
        return {key: hostile(one) for key, one in value.items()}
    if isinstance(value, list):
        return [hostile(one) for one in value]
    kept = (
        "over",
        "vectors",
        "k",
        "threads",
        "asymmetric",
        "symmetric",
        "approximate",
        "scaling",
        "tradeoff",
    )
    return value + HOSTILE if isinstance(value, str) and value not in kept else value


def test_names_are_text_whatever_they_hold(page, tmp_path):
    model = samples.summary("care-mini")
    model["tasks"] = {name + HOSTILE: hostile(entry) for name, entry in model["tasks"].items()}
    model["manifest"] = {key + HOSTILE: one for key, one in hostile(model["manifest"]).items()} | hostile(
        model["manifest"]
    )
    model["model"] += HOSTILE
    samples.write(tmp_path / "results" / "m" / "summary.json", model)
    run = hostile(samples.run(samples.all_rows()))
    run["limits"] = {name + HOSTILE: one for name, one in run["limits"].items()}
    run["versions"] = {name + HOSTILE: one for name, one in run["versions"].items()}
    for row in run["rows"]:
        row["parameters"] |= {HOSTILE: HOSTILE}
        if "parts_us" in row:
            row["parts_us"] = {name + HOSTILE: one for name, one in row["parts_us"].items()}
    samples.write(
        tmp_path / "bench" / "m.json", {"schema": 1, "machine": hostile(samples.machine()), "runs": [run]}
    )
    found = page(tmp_path / "results", tmp_path / "bench")
    assert HOSTILE in found.text
    assert {tag for tag, _ in found.tags} & {"script", "img", "iframe", "object"} == set()
    assert [name for _, attributes in found.tags for name in attributes if name.startswith("on")] == []


def test_the_page_asks_no_host_for_anything(page, everything):
    found = page(*everything)
    assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", found.html)
    assert "url(" not in found.html
    assert {tag for tag, _ in found.tags} & {"script", "link"} <= {"link"}  # its empty icon
    assert [a["href"] for tag, a in found.tags if tag == "link"] == ["data:,"]


def test_everything_can_be_read_aloud(page, everything):
    found = page(*everything)
    assert ("html", {"lang": "en"}) in found.tags
    plots = [a for tag, a in found.tags if tag == "svg" and a.get("aria-hidden") != "true"]
    assert plots
    assert all(a.get("role") == "img" and a.get("aria-label") for a in plots)
    assert all(a.get("scope") in ("col", "row") for tag, a in found.tags if tag == "th")
    assert sum(tag == "figure" for tag, _ in found.tags) == sum(tag == "figcaption" for tag, _ in found.tags)
    targets = {a["id"] for _, a in found.tags if "id" in a}
    assert {a["href"].removeprefix("#") for tag, a in found.tags if tag == "a"} <= targets
    numbers = [
        number for _, lines in found.tables for line in lines for _, number in line if number is not None
    ]
    assert all(map(math.isfinite, numbers))


def test_nothing_at_all_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(CareError, match=r"nothing to report.*care-accel eval.*pytest bench"):
        write_report(tmp_path / "page.html", results=tmp_path, bench=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_fails_leaves_the_old_one_whole(tmp_path, everything):
    file = tmp_path / "page.html"
    file.write_text("old")
    (everything[1] / "broken.json").write_text("{")
    with pytest.raises(CareError, match=r"broken\.json"):
        write_report(file, results=everything[0], bench=everything[1])
    assert file.read_text() == "old"


@pytest.mark.parametrize("name", ["folder", "file/page.html"])
def test_an_output_that_cannot_be_written_is_named(tmp_path, everything, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CareError, match=r"--output"):
        write_report(tmp_path / name, results=everything[0], bench=everything[1])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_of_one_row_and_one_task_is_written_too(page, tmp_path):
    one = {"retrieval/one": ("ndcg_at_10", "Retrieval", 1)}
    summary = samples.summary("m", one)
    summary["tasks"]["retrieval/one"]["interval"] = None
    samples.write_summaries(tmp_path / "results", summary)
    bare = {"suite": "tradeoff", "group": "g", "name": "n", "p50_ms": 1, "quality": {"task": "t", "score": 0}}
    run = {"started": "2026-11-25T23:15:00Z", "rows": [bare, bare | {"suite": "scan"}]}
    values = {"schema": 1, "machine": {"name": "m"}, "runs": [run]}
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "m.json").write_text(json.dumps(values))
    found = page(tmp_path / "results", tmp_path / "bench")
    assert found.rows("t, score: g")["n"]["ms per query, p50"] == ("1.00", 1.0)
    assert "revision unknown" in found.text
