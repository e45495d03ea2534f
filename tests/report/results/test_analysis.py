import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from care_accel.report.results.analysis import break_even, curves, fit, pairs, pareto_front, rows_at_recall
from care_accel.report.results.benchmarks import read_machines
from care_accel.report.sections.break_even import describe_break_even

SOME = st.integers(0, 6).map(float)  # few values, so that many are equal


def groups_of(tmp_path, rows):
    samples.write_machine(tmp_path, samples.machine(), samples.run(rows))
    return read_machines(tmp_path)[0].groups()


@given(st.lists(st.tuples(SOME, SOME)))
def test_the_front_is_what_no_other_point_beats(points):
    def beaten(i):
        cost, gain = points[i]
        return any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)

    front = pareto_front(points)
    assert sorted(front) == [i for i in range(len(points)) if not beaten(i)]
    assert [points[i] for i in front] == sorted(points[i] for i in front)


@given(st.floats(0, 10), st.floats(0.001, 10), st.sets(st.integers(1, 10_000_000), min_size=3, max_size=8))
def test_a_straight_line_is_found_again(intercept, slope, xs):
    x = sorted(map(float, xs))
    line = fit(x, [intercept + slope * one for one in x])
    assert line.slope == pytest.approx(slope, rel=1e-4)
    assert line.residuals == pytest.approx([0] * len(x), abs=1e-4)
    assert line.outliers == []


def test_a_power_is_found_again():
    x = [1.0, 2.0, 4.0, 16.0]
    line = fit(x, [12 * one**-0.7 for one in x], power=True)
    assert line.slope == pytest.approx(-0.7)
    assert [line.at(one) for one in x] == pytest.approx([12 * one**-0.7 for one in x])


def test_a_curve_bends_at_its_first_point_that_is_further_than_15_percent_off():
    line = fit([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 6.0, 4.0])
    assert line.outliers == [i for i, r in enumerate(line.residuals) if abs(r) > 0.15] != []
    assert line.residuals == pytest.approx(
        [(y - line.at(x)) / y for x, y in zip((1, 2, 3, 4), (1, 2, 6, 4), strict=True)]
    )
    almost = fit([1.0, 2.0, 3.0, 4.0], [1.0, 2.2, 3.0, 4.0])
    assert max(map(abs, almost.residuals)) < 0.15
    assert almost.outliers == []


def test_points_in_a_cache_do_not_bend_the_line_if_three_others_remain():
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0], [0.4, 0.8, 3.0, 4.0, 5.0]
    line = fit(x, y, excluded=[True, True, False, False, False])
    assert (line.slope, line.intercept) == (pytest.approx(1), pytest.approx(0, abs=1e-9))
    assert line.outliers == [0, 1]
    assert line.fitted == (False, False, True, True, True)
    assert fit(x, y, excluded=[True, True, True, False, False]).fitted == (True,) * 5


def test_two_points_are_no_line():
    assert fit([1.0, 2.0], [1.0, 2.0]) is None
    assert fit([1.0, 1.0, 2.0], [1.0, 1.1, 2.0]) is None


def test_rows_named_by_what_was_varied_are_one_curve_of_ours(tmp_path):
    found = curves(groups_of(tmp_path, samples.scaling_rows()))
    assert [(c.over, c.name, c.x) for together in found for c in together] == [
        ("vectors", "care_accel", [10_000, 30_000, 100_000, 300_000, 1_000_000]),
        ("k", "care_accel", [1, 10, 100, 1000]),
        ("threads", "care_accel", [1, 2]),
    ]
    rows = samples.scaling_rows()
    assert found[0][0].y == [row["p50_ms"] for row in rows[:5]]
    assert found[0][0].bytes_per_document == [row["bytes"] / row["parameters"]["vectors"] for row in rows[:5]]


def test_a_peer_that_was_varied_too_is_a_curve_beside_ours(tmp_path):
    ours = [row for row in samples.scaling_rows() if row["parameters"]["over"] == "k"]
    theirs = [row | {"name": f"faiss, {row['name']}", "p50_ms": 9.0, "ours": False} for row in ours]
    ((first, second),) = curves(groups_of(tmp_path, [*theirs, *ours]))
    assert (first.name, second.name) == ("care_accel", "faiss")
    assert (first.ours, second.ours) == (True, False)
    assert second.y == [9.0] * 4


def test_a_curve_of_another_name_is_ours_if_a_row_of_it_is(tmp_path):
    rows = [
        samples.row("server", "g", name, p50, ours=name == "served", parameters={"over": "k", "k": k})
        for k in (1, 2)
        for name, p50 in (("served", 1.0), ("by hand", 9.0))
    ]
    ((first, second),) = curves(groups_of(tmp_path, rows))
    assert [(one.name, one.ours) for one in (first, second)] == [("served", True), ("by hand", False)]


@pytest.mark.parametrize(
    ("points", "below", "above", "words"),
    [
        ([(100, 4.0), (10, 8.0)], None, None, "does not lose up to 100 vectors, the most that was compared"),
        ([(10, 0.5), (100, 0.4)], None, 10, "loses at every measured size, from 10 vectors on"),
        (
            [(10, 2.0), (1000, 0.5)],
            10,
            1000,
            "from between 10 and 1,000 vectors on (about 100, interpolated)",
        ),
        (
            [(10, 2.0), (100, 0.5), (1000, 1.5)],
            None,
            None,
            "loses at some sizes, and wins again at 1,000 vectors",
        ),
        ([(1, 2.0), (10, 0.5), (100, 1.5), (1000, 0.1)], 100, 1000, "from between 100 and 1,000 vectors on"),
    ],
)
def test_where_exact_search_loses_is_between_two_measured_sizes(points, below, above, words):
    found = break_even(points)
    assert (found.below, found.above) == (below, above)
    assert words in describe_break_even(found)


@given(st.dictionaries(st.integers(1, 10**7), st.floats(0.01, 100), min_size=1, max_size=6))
def test_nothing_is_said_beyond_the_measured_sizes(points):
    found = break_even(points.items())
    if found.about is not None:
        assert found.below * (1 - 1e-9) <= found.about <= found.above * (1 + 1e-9)
        assert {found.below, found.above} <= set(points)
        assert points[found.below] >= 1 > points[found.above]


def reached(tmp_path, rows, recall):
    """Return the approximate rows of the only case, by number of vectors."""
    ((_, entries),) = rows_at_recall(groups_of(tmp_path, rows), recall).items()
    return {n: rows for n, _, rows in entries}


def test_rows_that_reach_a_recall_come_the_fastest_first(tmp_path):
    found = reached(tmp_path, samples.approximate_rows(), 0.99)
    assert [(n, [(row.name, row.ratio) for row in rows]) for n, rows in found.items()] == [
        (n, [("faiss HNSW, recall 0.99", ratio), ("faiss IVF, recall 0.999", pytest.approx(2.2 * ratio))])
        for n, ratio in ((10_000, 3.0), (100_000, 1.4), (1_000_000, 0.4))
    ]
    found = reached(tmp_path, samples.approximate_rows(), 0.999)
    assert {row.name for rows in found.values() for row in rows} == {"faiss IVF, recall 0.999"}
    found = reached(tmp_path, samples.approximate_rows(), 0.9999)
    assert found == {10_000: [], 100_000: [], 1_000_000: []}


def test_a_row_that_was_tuned_to_a_recall_counts_for_it(tmp_path):
    rows = [
        row | {"parameters": row["parameters"] | {"recall_wanted": 0.999}}
        for row in samples.approximate_rows()
    ]
    for row in rows:
        if row["ours"]:
            del row["parameters"]["recall_wanted"]
    found = reached(tmp_path, rows, 0.999)
    assert {(rows[0].name, rows[0].recall) for rows in found.values()} == {
        ("faiss HNSW, recall 0.99", 0.9912)
    }


def test_a_noisy_row_speaks_too_as_ours_would_look_better_without_it(tmp_path):
    rows = [row | {"noisy": row.get("recall") == 0.9912} for row in samples.approximate_rows()]
    found = reached(tmp_path, rows, 0.99)
    assert {(rows[0].name, rows[0].noisy) for rows in found.values()} == {("faiss HNSW, recall 0.99", True)}


def test_a_pair_differs_in_nothing_but_the_family_if_it_can(tmp_path):
    found = pairs(groups_of(tmp_path, [*samples.tradeoff_rows(), *samples.encoder_rows()]))
    assert [(pair.asymmetric.name, pair.symmetric.name) for pair in found] == [
        ("care-mini 256 float32", "symmetric twin"),
        ("care-mini 256 int8", "symmetric twin"),
        ("care-mini 256 float32", "symmetric twin"),
        ("care-mini 256 int8", "symmetric twin"),
        ("query encoder", "document encoder"),
    ]
    assert found[0].ratio.value == pytest.approx(
        found[0].symmetric.ratio / found[0].asymmetric.ratio, rel=1e-4
    )
    assert found[0].retained == pytest.approx(found[0].asymmetric.quality["score"] / 0.715)
    assert found[4].retained is None
    assert [pair.differences for pair in found[:2]] == [[], ["precision int8, not float32"]]


def test_without_the_same_runtime_a_pair_is_with_the_fastest_other_and_says_so(tmp_path):
    times = {"query, native": 1.0, "query, PyTorch": 3.0, "query, width 8": 0.9, "slow": 9.0, "twin": 7.0}
    sides = {"slow": "symmetric", "twin": "symmetric"}
    runtimes = {"query, native": "native", "query, width 8": "native", "slow": "numpy"}
    extra = {
        name: {
            "parameters": {
                "family": sides.get(name, "asymmetric"),
                "runtime": runtimes.get(name, "pytorch"),
                "width": 8 if "width 8" in name else 256,
            }
        }
        for name in times
    }
    found = pairs(groups_of(tmp_path, samples.compared("tradeoff", "g", times, **extra)))
    assert [(pair.asymmetric.name, pair.symmetric.name, pair.differences) for pair in found] == [
        ("query, native", "twin", ["runtime native, not pytorch"]),
        ("query, PyTorch", "twin", []),
    ]


def test_scores_of_different_tasks_are_no_accuracy_kept(tmp_path):
    rows = samples.encoder_rows()
    for row, task in zip(rows, ("a", "b"), strict=True):
        row["quality"] = {"metric": "nDCG@10", "task": task, "score": 0.5}
    (pair,) = pairs(groups_of(tmp_path, rows))
    assert pair.retained is None
