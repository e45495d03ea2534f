import pytest

from care_accel.report.results.benchmarks import row_of
from care_accel.report.results.ratios import is_noisy, ratio_between


def row(*ratios, ours=False, noisy=False):
    values = {"suite": "s", "group": "g", "name": "n", "p50_ms": 1.0, "ours": ours, "noisy": noisy}
    middle = sorted(ratios)[len(ratios) // 2] if ratios else None
    return row_of(values | {"ratio": middle, "ratios": list(ratios)}, "here")


def test_a_ratio_is_the_median_of_neighbours_in_time():
    # The quotient of the two medians would be 8 / 4.
    found = ratio_between(row(9.0, 8.0, 7.0), row(2.0, 4.0, 5.0))
    assert found.blocks == (4.5, 2.0, 1.4)
    assert found.value == 2.0
    assert ratio_between(row(9.0, 8.0, 6.0), row(2.0, 8.0, 5.0)).value == pytest.approx(1.2)


def test_to_our_own_row_it_is_the_row_s_own():
    peer, ours = row(2.9, 3.0, 3.1), row(1.0, 1.0, 1.0, ours=True)
    assert ratio_between(peer, ours).value == peer.ratio == 3.0
    assert ratio_between(ours, peer).value == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("peer", "other", "noisy"),
    [
        (row(3.0, 3.1), row(1.0, 1.0, ours=True), False),
        (row(3.0, 3.1), row(1.0, 1.0, ours=True, noisy=True), False),  # its times are, not what is held to it
        (row(3.0, 3.1), row(1.0, 1.0, noisy=True), True),
        (row(3.0, 3.1, noisy=True), row(1.0, 1.0, ours=True), True),
        (row(3.0, 3.3), row(1.1, 1.0), True),  # neither lies apart, but what is between them does
    ],
)
def test_it_is_too_noisy_if_a_row_that_is_not_the_measure_is_or_its_blocks_lie_apart(peer, other, noisy):
    assert ratio_between(peer, other).noisy is noisy


def test_without_blocks_of_both_it_is_the_quotient_of_their_ratios_and_without_a_ratio_none():
    found = ratio_between(row(6.0, 6.0, 6.0), row(2.0))
    assert (found.value, found.blocks) == (3.0, ())
    assert ratio_between(row(), row(2.0)) is None


def test_values_lie_apart_if_they_spread_by_more_than_15_percent_of_their_median():
    assert is_noisy([1.0, 1.0, 1.2])
    assert not is_noisy([1.0, 1.0, 1.14])
    assert not is_noisy([])
