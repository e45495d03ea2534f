"""How often a recall is missed: the program changes how `ApproximateIndex` chooses, so it has to follow it."""

import sys

from bench.approximate import promise
from bench.approximate.promise import tuning


def test_a_structure_is_kept_where_a_scan_is_faster_and_measured_on_queries_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(tuning, "_TOO_SLOW", tuning._TOO_SLOW)  # the program sets it
    monkeypatch.setattr(promise, "CASES", [("Gaussian", 2_000, 8, 10, 0.95)])
    monkeypatch.setattr(promise, "TUNED", {0.95: 450})
    monkeypatch.setattr(promise, "MEASURED", 200)
    monkeypatch.setattr(sys, "argv", ["promise", "--never-exact"])
    promise.main()
    _, _, row, _, summary = capsys.readouterr().out.splitlines()
    chosen, proven, others = row.split(" | ")[3:6]
    assert chosen.startswith(("IVF", "HNSW"))
    assert 0.95 <= float(proven) <= 1
    assert 0.9 < float(others.split()[0]) <= 1
    assert " of 1 approximate indexes missed" in summary
