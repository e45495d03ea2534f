import json

import pytest

from bench.harness import readme
from care_accel.errors import CareError
from care_accel.report import write_report


def row(name, ratio, p50, **fields):
    return {
        "suite": "scan",
        "group": fields.pop("group", "g"),
        "name": name,
        "ours": name == "care_accel",
        "exact": True,
        "parameters": {"queries": 1},
        "p50_ms": p50,
        "p99_ms": None,
        "ratio": ratio,
        "noisy": False,
        "limit": {"name": "read bandwidth", "share": 0.954} if name == "care_accel" else None,
    } | fields


def machine(*runs, gpu=None):
    here = {"name": "m", "processor": "EPYC", "cores": 2, "instruction_sets": ["avx512vnni"], "gpu": gpu}
    return {
        "schema": 1,
        "machine": here,
        "runs": [
            {"id": "x", "started": f"2026-01-0{day}T03:04:05Z", "revision": "abc", "rows": rows}
            for day, rows in enumerate(runs, start=2)
        ],
    }


@pytest.fixture
def one_claim(monkeypatch):
    monkeypatch.setattr(readme, "CLAIMS", (readme.Claim("a search", "scan", {"queries": 1}),))


ROWS = [
    row("care_accel", 1.0, 2.0, p99_ms=3.25),
    row("slow", 9.0, 18.0),
    row("fast", 4.0, 8.04),
    row("inexact", 1.1, 2.2, exact=False),
    row("care_accel, another way", 1.2, 2.4),
    row("of another group", 1.05, 2.1, group="other"),
]


def test_a_claim_is_held_against_the_fastest_exact_peer(one_claim):
    found = readme.table([machine(ROWS)])
    assert "2 cores of an EPYC (avx512vnni), measured 2026-01-02" in found
    assert found.endswith("| a search | 2.0 | 3.2 | fast 8.0 | 4.0 | 95% of the read bandwidth |")


def test_the_newest_run_that_has_the_rows_is_taken(one_claim):
    newer = [row("care_accel", 1.0, 1.0), row("fast", 5.0, 5.0)]
    assert "| fast 5.0 | 5.0 |" in readme.table([machine(ROWS, newer, [])])


def test_a_smoke_run_is_no_claim(one_claim):
    found = machine(ROWS)
    found["runs"][0]["size"] = "smoke"
    assert readme.table([found]) == ""


def test_a_ratio_that_is_too_noisy_is_not_quoted(one_claim):
    rows = [row("care_accel", 1.0, 2.0), row("fast", 4.0, 8.0, noisy=True)]
    assert "| fast 8.0 | too noisy |" in readme.table([machine(rows)])


def test_a_time_of_ours_that_is_noisy_is_marked_and_its_ratio_is_not(one_claim):
    rows = [row("care_accel", 1.0, 2.0, noisy=True), row("fast", 4.0, 8.0)]
    assert "| a search | 2.0 (noisy) | - | fast 8.0 | 4.0 |" in readme.table([machine(rows)])


def test_a_ratio_between_two_rows_of_which_ours_is_noisy_is_not_quoted(monkeypatch):
    claim = readme.Claim("a search", "scan", {"queries": 1}, ("fast",), name="care_accel, another way")
    monkeypatch.setattr(readme, "CLAIMS", (claim,))
    rows = [
        row("care_accel", 1.0, 2.0),
        row("care_accel, another way", 1.2, 2.4, noisy=True),
        row("fast", 4.0, 8.0),
    ]
    assert "| fast 8.0 | too noisy |" in readme.table([machine(rows)])


def test_table_and_report_say_the_same_of_the_same_rows(tmp_path, monkeypatch):
    claim = readme.Claim("a search", "scan", {"queries": 1}, ("twin",), name="care_accel, another way")
    monkeypatch.setattr(readme, "CLAIMS", (claim,))
    # Block by block the twin takes 2.5, 2.6 and 2.7 times as long; the quotient of the medians is 2.88.
    blocks = {
        "care_accel": (1.0, 1.0, 1.0),
        "twin": (5.0, 5.2, 2.43),
        "care_accel, another way": (2.0, 2.0, 0.9),
    }
    times = {"care_accel": 2.0, "twin": 9.8, "care_accel, another way": 3.4}
    rows = [
        row(
            name,
            sorted(ratios)[1],
            times[name],
            ratios=list(ratios),
            parameters={"queries": 1, "family": family},
        )
        for (name, ratios), family in zip(blocks.items(), ("", "symmetric", "asymmetric"), strict=True)
    ]
    found = machine(rows)
    assert "| twin 9.8 | 2.6 |" in readme.table([found])
    (tmp_path / "machine.json").write_text(json.dumps(found))
    write_report(tmp_path / "page.html", results=tmp_path, bench=tmp_path)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<data value="2.6">2.60x</data>' in page


def test_the_days_are_those_of_the_runs_that_are_shown(monkeypatch):
    claims = [readme.Claim(words, "scan", {"queries": n}) for words, n in (("one", 1), ("several", 32))]
    monkeypatch.setattr(readme, "CLAIMS", tuple(claims))
    several = [row("care_accel", 1.0, 1.0, parameters={"queries": 32})]
    assert ", measured 2026-01-02 to 2026-01-03, " in readme.table([machine(ROWS, several, [])])


def test_a_machine_without_any_claim_has_no_table(one_claim):
    assert readme.table([machine([row("care_accel", 1.0, 2.0, suite="server")])]) == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123, "0.12"), (1.234, "1.2"), (0.0555, "0.06"), (12.3, "12"), (123.4, "123"), (None, "-")],
)
def test_times_have_two_digits_or_three(value, text):
    assert readme.number(value) == text


def test_the_table_takes_its_place_and_nothing_else_changes(one_claim):
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    new = readme.written(text, [machine(ROWS)])
    assert new.startswith(f"before\n{readme.BEGIN}\n2 cores")
    assert new.endswith(f"|\n{readme.END}\nafter\n")
    assert readme.written(new, [machine(ROWS)]) == new


def test_a_page_without_a_place_is_refused():
    with pytest.raises(CareError, match="needs exactly one line"):
        readme.written("nothing", [])


def test_the_documents_are_what_the_results_give():
    results = readme.results_of()
    assert results, "no machine has been measured"
    for file, text in readme.documents(results).items():
        assert file.read_text(encoding="utf-8") == text, f"{file}: run python -m bench.harness.readme"


def test_every_claim_is_a_row_of_some_machine():
    results = readme.results_of()
    missing = [
        claim.label
        for claim in readme.CLAIMS
        if not any(readme._line(claim, found["runs"]) for found in results)
    ]
    assert not missing
    assert readme.CLAIMS


def test_results_are_valid_files_whose_runs_are_in_order():
    for found in readme.results_of():
        assert found["schema"] == 1
        started = [run["started"] for run in found["runs"]]
        assert started == sorted(started)
        json.dumps(found, allow_nan=False)
