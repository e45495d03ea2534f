import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_accel.report.drawing.axes import Scale, elide, overlap, spread_out, text_width, tick_text
from care_accel.report.drawing.blocks import significant

VALUES = st.lists(st.floats(1e-4, 1e9), min_size=1, max_size=8)


@given(VALUES, st.booleans())
def test_all_values_lie_within_the_plot_in_their_order(values, log):
    scale = Scale(values, 40, 700, log=log)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert 40 <= places[0] <= places[-1] <= 700.001


@given(VALUES, st.booleans(), st.sampled_from([250, 660]))
def test_ticks_are_within_and_do_not_touch(values, log, width):
    scale = Scale(values, 0, width, log=log)
    ticks = scale.ticks()
    places = [(scale(tick), text_width(tick_text(tick))) for tick in ticks]
    assert all(-0.01 <= place <= width + 0.01 for place, _ in places)
    assert all(b - a >= (wa + wb) / 2 for (a, wa), (b, wb) in itertools.pairwise(places))


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([10_000, 1_000_000], True, ["10k", "20k", "50k", "100k", "200k", "500k", "1M"]),
        ([1, 2], False, ["1", "1.2", "1.4", "1.6", "1.8", "2"]),
        ([0, 80], False, ["0", "10", "20", "30", "40", "50", "60", "70", "80"]),
    ],
)
def test_ticks_are_round(values, log, ticks):
    assert [tick_text(tick) for tick in Scale(values, 0, 600, log=log).ticks()] == ticks


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_places_moved_apart_keep_their_order_and_their_gap(places):
    moved = spread_out(places, 15, 0, 400)
    order = sorted(range(len(places)), key=lambda i: places[i])
    assert all(moved[b] - moved[a] >= 15 - 1e-6 for a, b in itertools.pairwise(order))
    assert all(-1e-6 <= place <= 400 for place in moved)


def test_a_text_is_cut_to_its_room():
    assert elide("care-mini", 200) == "care-mini"
    cut = elide("sentence-transformers, faiss", 100)
    assert cut.endswith("…")
    assert text_width(cut) <= 100


def test_boxes_that_only_touch_do_not_overlap():
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert overlap((0, 0, 10, 10), (8, 5, 20, 20)) == 10


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0"), (0.000123, "0.000123"), (0.05, "0.0500"), (0.29, "0.290"), (1, "1.00"), (9.996, "10.0")),
        *((12.34, "12.3"), (99.96, "100"), (123.4, "123"), (1234.5, "1,234"), (3_840_016, "3,840,016")),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert significant(value) == text


@given(st.floats(1e-6, 1e9))
def test_a_number_is_never_written_more_than_half_a_percent_off(value):
    assert float(significant(value).replace(",", "")) == pytest.approx(value, rel=5.01e-3)
