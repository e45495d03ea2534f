import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_accel import CareError
from care_accel.curation.config import Vote
from care_accel.curation.judges.judge import Reply
from care_accel.curation.judges.store import FILE, Store
from care_accel.curation.labels import candidates, judging, vote
from care_accel.curation.labels.vote import decide, labels_of, read_votes
from care_accel.curation.steps import no_progress
from care_accel.eval.data.reading import read_judgements

from ..conftest import DOCUMENTS, QUERIES

JUDGES = [{"name": name, "base_url": "http://127.0.0.1:9/v1", "model": "m"} for name in "abc"]
grades = st.lists(st.integers(1, 5), min_size=1, max_size=5)


@pytest.mark.parametrize(
    ("given", "unanimous", "majority", "mean"),
    [
        ([4, 4, 4], True, True, True),
        ([5, 5, 3], False, True, True),
        ([5, 4, 2], False, True, False),
        ([3, 3, 5], False, False, False),
        ([4, 3], False, False, False),
        ([5, 3], False, False, True),
        ([4, None, 4], None, None, None),
        ([], None, None, None),
    ],
)
def test_rules_differ_in_how_many_must_agree(given, unanimous, majority, mean):
    for rule, expected in (("unanimous", unanimous), ("majority", majority), ("mean", mean)):
        assert decide(given, Vote(rule, 4.0)) is expected


@given(grades, st.integers(2, 5))
def test_what_all_agree_on_the_others_find_as_well(given, cutoff):
    if decide(given, Vote("unanimous", float(cutoff))):
        assert decide(given, Vote("majority", float(cutoff)))
        assert decide(given, Vote("mean", float(cutoff)))


@given(st.integers(1, 200), st.integers(2, 5))
def test_a_mean_that_is_the_cutoff_is_positive_whatever_division_rounds_to(count, cutoff):
    assert decide([cutoff] * count, Vote("mean", float(cutoff)))


def place_with_grades(workplace, given, **fields):
    """Make candidates, and put grades into the store as judges would."""
    place = workplace(JUDGES, **fields)
    candidates.run(place.config, no_progress)
    tasks, _ = judging.load_tasks(place.config)
    prompt = judging.load_prompt("relevance-v1", judging.PLACEHOLDERS)
    with Store(place.output / FILE) as store:
        for task in tasks:
            for judge in place.config.judges:
                grade = given(judge.name, task.pair)
                if grade is not None:
                    reply = Reply("answered", {"grade": grade}, "{}")
                    store.add(judge, task.pair, prompt.version, task.hash, reply, grade)
    return place, [task.pair for task in tasks]


def test_votes_and_labels_are_written_and_read_back(workplace):
    place, pairs = place_with_grades(workplace, lambda judge, pair: 5 if pair.query == "q1" else 2)
    summary = vote.run(place.config, no_progress)
    votes = read_votes(place.output / vote.FILE)
    assert [(one.query, one.document) for one in votes] == [(p.query, p.document) for p in pairs]
    assert all(one.positive is (one.query == "q1") for one in votes)
    labels = read_judgements(place.output / vote.QRELS, QUERIES, DOCUMENTS)
    assert set(labels["q1"].values()) == {1}
    assert set(labels["q0"].values()) == {0}
    assert summary.facts["positive"] == sum(pair.query == "q1" for pair in pairs)


def test_a_duplicate_that_was_left_out_gets_the_label_of_the_one_that_was_judged(workplace):
    place, _ = place_with_grades(workplace, lambda judge, pair: 5)
    vote.run(place.config, no_progress)
    labels = read_judgements(place.output / vote.QRELS, QUERIES, DOCUMENTS)
    assert labels["q0"]["d0"] == labels["q0"]["d4"] == 1


def test_a_pair_without_all_grades_has_no_label_and_is_counted(workplace):
    place, pairs = place_with_grades(
        workplace, lambda judge, pair: None if (judge, pair.query) == ("c", "q0") else 5
    )
    summary = vote.run(place.config, no_progress)
    missing = sum(pair.query == "q0" for pair in pairs)
    assert summary.facts["without a label"] == missing > 0
    assert f"{missing} pairs lack a grade" in summary.warnings[0]
    assert "q0" not in read_judgements(place.output / vote.QRELS, QUERIES, DOCUMENTS)


def test_a_grade_for_other_words_is_none(workplace):
    place_with_grades(workplace, lambda judge, pair: 5)
    place = workplace(JUDGES, documents={**DOCUMENTS, "d1": "感冒发热，改过。"})
    vote.run(place.config, no_progress)
    for one in read_votes(place.output / vote.FILE):
        assert (one.positive is None) == (one.document == "d1")


def test_near_duplicates_do_not_share_labels():
    votes = [vote.VotedPair("q", "d", {"a": 5}, True)]
    assert labels_of(votes, {}) == {"q": {"d": 1}}
    assert labels_of(votes, {"q": {"d": ["e"]}}) == {"q": {"d": 1, "e": 1}}


def test_without_judgements_the_next_command_is_named(workplace):
    place = workplace(JUDGES)
    candidates.run(place.config, no_progress)
    with pytest.raises(CareError, match="run care-accel curate judge first"):
        vote.run(place.config, no_progress)
    with pytest.raises(CareError, match="run care-accel curate vote first"):
        read_votes(place.output / vote.FILE)
    (place.output / vote.FILE).write_text(json.dumps({"query": "q", "document": "d"}))
    with pytest.raises(CareError, match="line 1: has no valid grades"):
        read_votes(place.output / vote.FILE)
