import json

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.inter_rater import fleiss_kappa

from care_accel import CareError
from care_accel.curation.data import write_rows
from care_accel.curation.labels import agreement
from care_accel.curation.labels.agreement import _alpha, _cohen, _fleiss, coincidences, fleiss_counts, measure
from care_accel.curation.labels.vote import FILE as VOTES
from care_accel.curation.labels.vote import VotedPair
from care_accel.curation.steps import no_progress

from ..conftest import QUERIES


def votes_of(grades, queries=None):
    """Make votes of a table of grades, a row a pair; 0 is no grade."""
    names = "abcdef"[: len(grades[0])]
    return [
        VotedPair(
            f"q{i if queries is None else queries[i]}",
            f"d{i}",
            {n: int(g) or None for n, g in zip(names, row, strict=True)},
            None,
        )
        for i, row in enumerate(grades)
    ]


def figures(grades, cutoff=4, queries=None):
    judges = list("abcdef"[: len(grades[0])])
    found = measure(votes_of(grades, queries), judges, cutoff)
    return {(one.name, one.of, one.judges): one for one in found.figures}, found


tables = st.integers(2, 4).flatmap(
    lambda judges: st.lists(
        st.lists(st.integers(1, 5), min_size=judges, max_size=judges), min_size=3, max_size=30
    )
)


@settings(max_examples=60, deadline=None)
@given(tables)
def test_values_are_those_of_the_libraries_and_the_bootstrap_s_formulas_are_the_same(grades):
    table = np.array(grades)
    found, _ = figures(grades)
    judges = tuple("abcdef"[: table.shape[1]])
    counts = np.stack([(table == g).sum(axis=1) for g in range(1, 6)], axis=1)
    fleiss = found["Fleiss' kappa", "grades", judges].value
    alpha = found["Krippendorff's alpha (ordinal)", "grades", judges].value
    if len(np.unique(table)) < 2:
        assert fleiss is None
        assert alpha is None
        return
    assert fleiss == pytest.approx(fleiss_kappa(counts))
    assert fleiss == pytest.approx(_fleiss(fleiss_counts(table - 1, 5).sum(axis=0)[None])[0])
    assert alpha == pytest.approx(
        krippendorff.alpha(
            reliability_data=table.T, level_of_measurement="ordinal", value_domain=[1, 2, 3, 4, 5]
        )
    )
    assert alpha == pytest.approx(_alpha(coincidences(table - 1).sum(axis=0)[None])[0])
    one = found["Cohen's kappa (quadratic)", "grades", ("a", "b")].value
    if len(np.unique(table[:, :2])) > 1:
        assert one == pytest.approx(
            cohen_kappa_score(table[:, 0], table[:, 1], labels=[1, 2, 3, 4, 5], weights="quadratic")
        )
    labels = table >= 4
    two = found["Cohen's kappa", "labels", ("a", "b")].value
    if len(np.unique(labels[:, :2])) > 1:
        expected = cohen_kappa_score(labels[:, 0], labels[:, 1])
        assert two == pytest.approx(expected)
        cells = np.array([[(~labels[:, 0] & ~labels[:, 1]).sum(), (~labels[:, 0] & labels[:, 1]).sum()],
                          [(labels[:, 0] & ~labels[:, 1]).sum(), (labels[:, 0] & labels[:, 1]).sum()]], dtype=float)  # fmt: skip
        assert _cohen(cells.reshape(1, 4))[0] == pytest.approx(expected)


def test_judges_that_always_agree_have_1_and_judges_that_guess_about_0():
    rng = np.random.default_rng(0)
    same = np.repeat(rng.integers(1, 6, (400, 1)), 3, axis=1)
    found, whole = figures(same)
    assert all(one.value == pytest.approx(1) for one in found.values())
    assert whole.all_agree == 1
    found, _ = figures(rng.integers(1, 6, (2000, 3)))
    assert all(abs(one.value) < 0.06 for one in found.values())
    assert all(one.interval[0] < 0 < one.interval[1] for one in found.values() if len(one.judges) == 3)


def test_an_interval_holds_its_value_and_is_wider_where_queries_stand_and_fall_together():
    rng = np.random.default_rng(1)
    truth = rng.integers(1, 6, 300)
    # Judges agree in half of the queries: pairs of a query are alike.
    queries = np.arange(300) // 10
    noise = rng.integers(1, 6, (300, 3))
    grades = np.where((queries % 2 == 0)[:, None], truth[:, None], noise)
    clustered, _ = figures(grades, queries=queries)
    alone, _ = figures(grades)
    for key, one in clustered.items():
        assert one.interval[0] <= one.value <= one.interval[1]
        assert one.interval[1] - one.interval[0] > (alone[key].interval[1] - alone[key].interval[0])


def test_missing_grades_leave_out_what_lacks_them():
    grades = [[5, 5, 0], [1, 1, 1], [4, 4, 5], [2, 0, 0], [5, 4, 5]]
    found, whole = figures(grades)
    assert found["Fleiss' kappa", "labels", ("a", "b", "c")].pairs == 3
    assert found["Krippendorff's alpha (ordinal)", "grades", ("a", "b", "c")].pairs == 4
    assert found["Cohen's kappa", "labels", ("a", "b")].pairs == 4
    assert found["Cohen's kappa", "labels", ("a", "c")].pairs == 3
    assert whole.grades["c"] == [1, 0, 0, 0, 2]
    assert "2 of 5 pairs lack a grade" in whole.notes


def test_where_all_grades_are_the_same_nothing_is_defined_and_that_is_said():
    found, whole = figures([[5, 5]] * 4)
    assert all(one.value is None and one.interval is None for one in found.values())
    assert any("undefined" in note for note in whole.notes)


def test_one_judge_alone_agrees_with_nobody():
    with pytest.raises(CareError, match="fewer than two"):
        measure(votes_of([[5], [4]]), ["a"], 4)
    with pytest.raises(CareError, match="no pair has the grades of two judges"):
        measure(votes_of([[5, 0], [0, 4]]), ["a", "b"], 4)


def test_the_step_writes_a_table_and_a_plot(workplace):
    judges = [{"name": name, "base_url": "http://127.0.0.1:9/v1", "model": "m"} for name in "abc"]
    place = workplace(judges)
    rng = np.random.default_rng(0)
    rows = [
        vars(one)
        for one in votes_of(rng.integers(1, 6, (30, 3)), queries=[i % len(QUERIES) for i in range(30)])
    ]
    write_rows(place.config.output_file(VOTES), rows)
    summary = agreement.run(place.config, no_progress)
    saved = json.loads((place.output / agreement.FILE).read_text())
    assert len(summary.table) == 1 + len(saved["figures"]) == 1 + 2 + 1 + 6
    assert saved["figures"][0]["name"] == "Fleiss' kappa"
    assert (place.output / "agreement.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (place.output / "agreement.svg").read_text()
    for file in summary.files:
        assert file.stat().st_mode & 0o777 == 0o600
    other = workplace(judges[:2])
    with pytest.raises(CareError, match="of other judges"):
        agreement.run(other.config, no_progress)
