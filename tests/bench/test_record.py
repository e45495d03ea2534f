import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest

from bench.harness import record
from care_accel.errors import CareError


def measured(name, times, *, block=0, ours=False, group="top 10", suite="scan", calls=1, limit=None, **extra):
    """Return what a session holds of one engine in one block."""
    info = {
        "suite": suite,
        "block": block,
        "name": name,
        "ours": ours,
        "parameters": {"queries": 1},
        "calls": calls,
        "in_cache": False,
        "extra": extra,
    }
    if limit:
        info["limit"] = {"name": "read bandwidth", "seconds": limit}
    stats = SimpleNamespace(data=times, rounds=len(times), median=float(np.median(times)))
    return SimpleNamespace(group=group, extra_info=info, stats=stats, fullname=f"{name}[{block}]")


def test_blocks_become_one_row_whose_ratio_is_the_median_of_neighbours_in_time():
    rows = record.rows_of(
        [
            measured("care_accel", [1.0, 1.0], block=0, ours=True),
            measured("peer", [3.0, 3.0], block=0),
            # The machine is twice as slow for a while: the ratio is not.
            measured("care_accel", [2.0, 2.0], block=1, ours=True),
            measured("peer", [6.0, 6.0], block=1),
            measured("care_accel", [1.0, 1.0], block=2, ours=True),
            measured("peer", [3.1, 3.1], block=2),
        ]
    )
    ours, peer = rows
    assert (ours["ratio"], peer["ratio"]) == (1.0, 3.0)
    assert peer["ratios"] == [3.0, 3.0, 3.1]
    assert peer["rounds"] == 6
    assert peer["p50_ms"] == 3100.0
    assert not peer["noisy"]
    assert ours["noisy"]  # its time is not to be quoted


def test_ratios_that_lie_apart_are_marked():
    blocks = [("care_accel", 1.0, 0), ("peer", 2.0, 0), ("care_accel", 1.0, 1), ("peer", 2.4, 1)]
    rows = record.rows_of([measured(n, [t], block=b, ours=n == "care_accel") for n, t, b in blocks])
    assert [row["noisy"] for row in rows] == [False, True]


def test_percentiles_need_their_rounds():
    def row(rounds):
        return record.rows_of([measured("care_accel", list(np.linspace(0.1, 0.2, rounds)), ours=True)])[0]

    assert (row(19)["p95_ms"], row(99)["p99_ms"]) == (None, None)
    assert row(20)["p95_ms"] == pytest.approx(195, rel=0.01)
    assert row(100)["p99_ms"] == pytest.approx(199, rel=0.01)


def test_times_and_shares_are_of_one_call():
    (row,) = record.rows_of([measured("care_accel", [1.0] * 100, ours=True, calls=10, limit=0.5)])
    assert row["p50_ms"] == 100.0
    assert (row["p95_ms"], row["p99_ms"]) == (None, None)  # they would be of ten calls' mean
    assert row["limit"] == {"name": "read bandwidth", "share": 0.5}


def test_a_row_names_every_limit_that_one_of_its_blocks_had():
    shares = {0: ("int8 rate", 0.80), 1: ("read bandwidth", 0.84), 2: ("int8 rate", 0.82)}
    blocks = []
    for block, (name, share) in shares.items():
        one = measured("care_accel", [1.0], block=block, ours=True)
        one.extra_info["limit"] = {"name": name, "seconds": share}
        blocks.append(one)
    (row,) = record.rows_of(blocks)
    assert row["limit"] == {"name": "int8 rate or read bandwidth", "share": 0.82}
    (row,) = record.rows_of(blocks[::2])
    assert row["limit"] == {"name": "int8 rate", "share": 0.81}


def test_latencies_of_many_requests_are_the_percentiles_of_their_run():
    one = measured("served", [2.0], ours=True)
    one.extra_info["latencies_s"] = [0.001] * 99 + [0.5]
    (row,) = record.rows_of([one])
    assert row["rounds"] == 100
    assert row["p50_ms"] == 1.0


def test_ratios_of_runs_are_of_the_seconds_that_they_say_where_they_say_any():
    blocks = [("care_accel", 1.0, 0.5), ("peer", 1.5, 1.25), ("another", 3.0, None)]
    rows = []
    for name, whole, compared in blocks:
        one = measured(name, [whole], ours=name == "care_accel")
        one.extra_info |= {"latencies_s": [0.001], "compared_s": compared}
        rows.append(one)
    assert [row["ratio"] for row in record.rows_of(rows)] == [1.0, 2.5, 6.0]


def test_a_group_without_ours_has_no_ratios_and_foreign_benchmarks_are_left_out():
    foreign = SimpleNamespace(group="x", extra_info={}, stats=SimpleNamespace(rounds=1))
    (row,) = record.rows_of([measured("peer", [1.0]), foreign])
    assert row["ratio"] is None


def test_what_gave_a_wrong_answer_in_one_block_has_no_row():
    blocks = [
        measured(name, [1.0], block=block, ours=name == "care_accel")
        for block in range(2)
        for name in ("care_accel", "wrong", "right")
    ]
    assert [row["name"] for row in record.rows_of(blocks, {"wrong[1]"})] == ["care_accel", "right"]
    assert [row["ratio"] for row in record.rows_of(blocks, {"care_accel[0]"})] == [None, None]


def test_further_fields_of_blocks_are_joined():
    blocks = [
        measured("care_accel", [1.0], block=b, ours=True, rate=r, parts_us={"scan": [r, 2 * r]}, note=f"{r}")
        for b, r in enumerate((1.0, 5.0, 3.0))
    ]
    (row,) = record.rows_of(blocks)
    assert row["rate"] == 3.0
    assert row["parts_us"] == {"scan": [3.0, 6.0]}
    assert row["note"] == "3.0"


def test_runs_are_appended(tmp_path):
    file = tmp_path / "here.json"
    for _ in range(2):
        rows = record.rows_of([measured("care_accel", [1.0], ours=True)])
        run = record.run_of(rows, {}, "smoke", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
        assert record.append(run, file) == file
    found = json.loads(file.read_text())
    assert found["schema"] == record.SCHEMA
    assert [run["id"] for run in found["runs"]] == ["20260102T030405Z"] * 2
    assert found["machine"]["cores"] >= 1
    assert found["runs"][0]["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{half", "cannot be read as JSON"),
        ('{"runs": []}', "holds no runs of schema 1"),
        (
            '{"schema": 1, "machine": {"name": "another"}, "runs": []}',
            "is of the machine another, and this is",
        ),
    ],
)
def test_a_file_that_takes_no_further_run_is_refused_and_stays(tmp_path, content, words):
    file = tmp_path / "here.json"
    file.write_text(content)
    with pytest.raises(CareError, match=words):
        record.append({}, file)
    assert file.read_text() == content


def test_it_is_refused_before_anything_is_measured(tmp_path):
    file = tmp_path / "here.json"
    file.write_text("{half")
    suite = record.FOLDER.parent / "scan" / "test_scaling.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--benchmark-only", str(suite)]
    done = subprocess.run(
        [*command, "--bench-size", "smoke", "--bench-results", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
    )
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "cannot be read as JSON" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_a_line_says_what_a_reader_must_know():
    row = record.rows_of(
        [
            measured("care_accel", [1.0], ours=True),
            measured("peer", [2.5], limit=0.5, exact=False, recall=0.99, note="as shipped"),
        ]
    )
    ((group, lines),) = record.lines(row)
    assert group == "scan: top 10"
    assert lines[0].startswith("care_accel")
    for words in ("2.50 x ours", "20% of the read bandwidth", "not exact", "recall 0.9900", "as shipped"):
        assert words in lines[1]


def test_a_ratio_that_does_not_come_out_again_is_marked():
    def run(size, **ratios):
        rows = [
            {"suite": "scan", "group": "g", "name": name, "ratio": ratio, "noisy": False}
            for name, ratio in ratios.items()
        ]
        return {"id": f"{size}", "size": size, "rows": rows}

    before = [run("default", same=2.0, other=2.0, gone=1.0), run("full", same=9.0, other=9.0)]
    now = run("default", same=2.2, other=1.6, new=3.0, none=None)
    record.mark_unrepeated(now, before)
    assert {row["name"] for row in now["rows"] if row["noisy"]} == {"other"}
    assert now["rows"][1]["other_before"] == {"run": "default", "ratio": 2.0}
    first = run("smoke", same=2.0)
    record.mark_unrepeated(first, before)
    assert not first["rows"][0]["noisy"]
