import json

import pytest
import samples

from care_accel import CareError
from care_accel.report.results.benchmarks import read_machines


def test_each_group_is_of_the_newest_run_that_has_it(tmp_path):
    old = samples.run(samples.scan_rows(), started="2026-11-01T00:00:00Z", revision="old")
    times = {"care_accel": 1.0, "faiss": 2.0}
    new = samples.run(samples.compared("pooling", "some", times), revision="new")
    newer = samples.run(samples.compared("pooling", "some", {"care_accel": 3.0}), revision="newer")
    samples.write_machine(tmp_path, samples.machine(), old, new, newer)
    (machine,) = read_machines(tmp_path)
    groups = machine.groups()
    assert {group.run.revision for group in groups if group.suite == "scan"} == {"old"}
    (pooling,) = [group for group in groups if group.suite == "pooling"]
    assert pooling.run.revision == "newer"
    # Not a mixture: the peer that the newest run did not have is not shown with its times.
    assert [(row.name, row.p50_ms) for row in pooling.rows] == [("care_accel", 3.0)]


def test_a_smoke_run_gives_way_to_one_that_proves_something(tmp_path):
    smoke = samples.run(samples.scan_rows(), size="smoke", revision="smoke")
    real = samples.run(samples.scan_rows(), started="2026-11-01T00:00:00Z", revision="real")
    samples.write_machine(tmp_path, samples.machine(), real, smoke)
    samples.write_machine(tmp_path, samples.machine("only-smoke"), smoke)
    by_name = {machine.name: machine for machine in read_machines(tmp_path)}
    assert by_name["amd-epyc-2-cores"].latest.revision == "real"
    assert {group.run.revision for group in by_name["amd-epyc-2-cores"].groups()} == {"real"}
    assert by_name["only-smoke"].latest.revision == "smoke"


def test_a_time_of_a_call_is_shared_out_to_its_queries(tmp_path):
    rows = samples.compared("scan", "32 at a time", {"care_accel": 64.0}, {"queries": 32})
    samples.write_machine(tmp_path, samples.machine(), samples.run(rows))
    (row,) = read_machines(tmp_path)[0].runs[0].rows
    assert row.ms_per_query == 2.0
    assert row.per_query(row.p95_ms) == pytest.approx(2.4)
    assert row.per_query(None) is None


def test_processors_come_before_graphics_cards_and_other_files_are_passed_over(everything):
    _, bench = everything
    assert [machine.name for machine in read_machines(bench)] == ["amd-epyc-2-cores", "nvidia-h100-80gb-hbm3"]
    assert [machine.name for machine in read_machines(bench, "nvidia-h100-80gb-hbm3")] == [
        "nvidia-h100-80gb-hbm3"
    ]
    samples.write(bench / "other.json", {"something": "else"})
    assert len(read_machines(bench)) == 2


def test_a_machine_that_is_not_there_is_named_with_those_that_are(everything):
    with pytest.raises(
        CareError, match=r"--machine mine: .* has results of amd-epyc-2-cores, nvidia-h100-80gb-hbm3$"
    ):
        read_machines(everything[1], "mine")


def broken(**changes):
    return samples.run([samples.row("scan", "some", "care_accel", 1.0) | changes])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ('{"schema": 1, "runs": [', r"a\.json: cannot be read as JSON: .*run pytest bench again"),
        ({"schema": 2, "machine": samples.machine(), "runs": []}, r"a\.json: unknown schema 2"),
        ({"machine": samples.machine(), "runs": []}, r"a\.json: unknown schema None"),
        ({"schema": 1, "machine": [], "runs": []}, r"a\.json: 'machine' is not a JSON object"),
        ({"schema": 1, "machine": {}, "runs": []}, r"a\.json: 'machine': 'name' is None"),
        ({"schema": 1, "machine": samples.machine(), "runs": {}}, r"a\.json: 'runs' is not a list"),
        (samples.run("rows"), r"a\.json, run 1: 'rows' is not a list"),
        (broken(p50_ms="fast"), r"a\.json, run 1, row 1 \(care_accel\): 'p50_ms' is 'fast'"),
        (broken(p50_ms=0), r"row 1 \(care_accel\): 'p50_ms' is 0.0; it must be a number above 0"),
        (broken(p50_ms=None), r"'p50_ms' is None"),
        (broken(p99_ms=True), r"'p99_ms' is True; it must be a number"),
        (broken(ratio=-1), r"'ratio' is -1.0; it must be a number above 0"),
        (broken(ratios=["1"]), r"'ratios' is not a list of numbers"),
        (broken(suite=None), r"row 1: 'suite' is None; it must be a string"),
        (broken(limit={"share": 1}), r"'limit': 'name' is None"),
        (broken(quality={"task": "t"}), r"'quality': 'score' is None"),
        (broken(parts_us={"scan": ["x"]}), r"part 'scan' must have times"),
        (broken(parts_us={"scan": []}), r"part 'scan' must have times"),
        (broken(parameters={"queries": 0}), r"'queries' is 0.0"),
        (
            samples.run([], limits={"read bandwidth": {"median": "x"}}),
            r"limit 'read bandwidth': 'median' is 'x'",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, values, words):
    if isinstance(values, dict) and "rows" in values:
        values = {"schema": 1, "machine": samples.machine(), "runs": [values]}
    (tmp_path / "a.json").write_text(values if isinstance(values, str) else json.dumps(values))
    with pytest.raises(CareError, match=words):
        read_machines(tmp_path)


def test_not_a_number_is_not_taken_for_one(tmp_path):
    text = json.dumps({"schema": 1, "machine": samples.machine(), "runs": [broken(p95_ms=7.77)]})
    (tmp_path / "a.json").write_text(text.replace("7.77", "NaN"))
    with pytest.raises(CareError, match="'p95_ms' is nan"):
        read_machines(tmp_path)
