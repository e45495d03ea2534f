from itertools import groupby

import numpy as np
import pytest

from care_accel.index.approximate.building import tuning
from care_accel.index.approximate.building.questions import Asked
from care_accel.index.approximate.building.tuning import Seen, Tuner, alternating_times
from care_accel.index.approximate.choice import Tried


def tuner(rows=3000, **options):
    vectors = np.zeros((rows, 4), dtype=np.float32)
    defaults = {
        "base": (),
        "ids": None,
        "vectors": vectors,
        "asked": Asked(vectors[:1], np.zeros((1, 10))),
        "apart": 800,
        "recall": 0.9,
        "k": 10,
        "threads": 1,
        "seed": 0,
        "memory": None,
        "until": 0.0,
    }
    return Tuner(**defaults | options)


def tried(tuner, microseconds):
    """Return the kinds that are tried where each takes what a function of it says; None for one that does not reach the recall."""
    found = []
    for kind, _ in tuner.family(None):
        found.append(kind)
        if kind.lists:
            tuner._lists[kind.lists] = None
        time = microseconds(kind)
        tuner.tried.append(Tried(kind.name(4), p50_us=time))
    return found


def test_codes_are_tried_with_lists_that_were_found_in_time_where_none_of_vectors_was_fast_enough():
    some = tuner()
    some._lists[55] = None  # more took too long
    kinds = [kind for kind, _ in some.family(None)]
    assert {kind.lists for kind in kinds if kind.codes != "Flat" and not kind.links} == {55}
    assert {kind.codes for kind in kinds if kind.lists == 55} == {"Flat", "SQ8", "PQ", "RaBitQ"}


@pytest.mark.parametrize(
    ("best", "numbers"),
    [(8, [4, 2, 8]), (4, [4, 2, 8]), (2, [4, 2, 1]), (1, [4, 2, 1, 0.5])],
)
def test_numbers_of_lists_are_tried_until_the_time_rises_and_other_codes_with_the_best(best, numbers):
    kinds = tried(tuner(rows=160_000), lambda kind: 10 + abs(kind.lists - 400 * best))
    lists = [kind.lists for kind in kinds if kind.codes == "Flat" and kind.lists]
    assert lists == [400 * number for number in numbers]
    others = [(kind.codes, kind.lists) for kind in kinds if kind.lists and kind.codes != "Flat"]
    # Fewer lists were slower with 4-bit codes, too.
    assert others == [
        ("SQ8", 400 * best), ("PQ", 400 * best), ("PQ", 200 * best), ("RaBitQ", 400 * best)
    ]  # fmt: skip
    assert [kind.codes for kind in kinds if kind.links] == ["SQ8", "Flat"]


def test_fewer_lists_are_tried_with_small_codes_while_that_is_faster():
    best = {"PQ": 400, "Flat": 1600, "SQ8": 1600, "RaBitQ": 1600}
    kinds = tried(
        tuner(rows=160_000),
        lambda kind: abs(kind.lists - best[kind.codes]) + (5 if kind.codes == "PQ" else 10),
    )
    assert [(kind.codes, kind.lists) for kind in kinds if kind.lists] == [
        ("Flat", 1600), ("Flat", 800), ("Flat", 3200), ("SQ8", 1600),
        ("PQ", 1600), ("PQ", 800), ("PQ", 400), ("PQ", 200), ("RaBitQ", 400),
    ]  # fmt: skip


def test_codes_that_miss_the_recall_do_not_choose_the_number_of_lists():
    kinds = tried(tuner(rows=160_000), lambda kind: kind.lists if kind.codes == "PQ" else None)
    assert [(kind.codes, kind.lists) for kind in kinds if kind.lists] == [
        ("Flat", 1600), ("SQ8", 1600), ("PQ", 1600), ("PQ", 800), ("PQ", 400), ("PQ", 200), ("PQ", 100),
        ("RaBitQ", 100),
    ]  # fmt: skip


def test_of_many_vectors_small_codes_choose_the_number_of_lists(monkeypatch):
    monkeypatch.setattr(tuning, "_MANY_BYTES", 1)
    kinds = tried(tuner(rows=160_000), lambda kind: 1 + abs(kind.lists - 1600))
    assert [kind.codes for kind in kinds if kind.lists == 1600] == ["PQ", "SQ8", "RaBitQ", "Flat"]


def test_the_fewest_candidates_that_are_enough_follow_from_the_ranks_of_more():
    exact = np.tile(np.arange(10, 0, -1.0), (400, 1))
    some = tuner(asked=Asked(np.zeros((400, 4), dtype=np.float32), exact))
    ranks = np.tile(np.arange(0, 100, 10), (400, 1))
    seen = Seen(7, 160, np.ones(400), [exact], [ranks])
    fewest = some._fewest(seen, [20, 40, 80, 160])
    assert (fewest.value, fewest.candidates) == (7, 160)
    fewest = some._fewest(Seen(7, 160, np.ones(400), [exact], [ranks // 4]), [20, 40, 80, 160])
    assert (fewest.value, fewest.candidates) == (7, 40)
    assert some._fewest(Seen(7, 160, np.ones(400), [exact], [ranks + 200]), [20, 40, 80, 160]) is None


def test_searches_take_turns_in_changing_order():
    order = []
    searches = [lambda rows, name=name: order.append(name) for name in "abc"]
    assert len(alternating_times(searches, list(range(60)))) == 3
    first, rest = order[:3], order[3:]
    assert first == ["a", "b", "c"]
    assert rest.count("a") == rest.count("b") == rest.count("c") >= 60
    # Of several queries each, as one follows another in use.
    turns = [name for name, _ in groupby(rest)]
    assert len(turns) <= len(rest) / 20
    assert turns[:3] != turns[3:6] or turns[3:6] != turns[6:9]


def test_slow_searches_take_short_turns(monkeypatch):
    clock, order = [0.0], []

    def slow(rows):
        order.append(rows)
        clock[0] += 0.005

    monkeypatch.setattr(tuning, "perf_counter", lambda: clock[0])
    assert alternating_times([slow, lambda rows: order.append("quick")], list(range(100))) == pytest.approx(
        [0.005, 0]
    )
    assert len(order) == 202
    assert max(len(list(run)) for name, run in groupby(order[2:], lambda one: one == "quick")) <= 8
