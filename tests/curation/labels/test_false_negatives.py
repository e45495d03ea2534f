import json

import pytest

from care_accel import CareError
from care_accel.curation.data import write_rows
from care_accel.curation.labels import false_negatives
from care_accel.curation.labels.candidates import FILE as CANDIDATES
from care_accel.curation.labels.candidates import Pool
from care_accel.curation.labels.vote import FILE as VOTES
from care_accel.curation.labels.vote import VotedPair
from care_accel.curation.steps import no_progress
from care_accel.eval.data.reading import read_judgements
from care_accel.eval.folder import DataSet

from ..conftest import DOCUMENTS, LABELS, QUERIES


def vote(query, document, positive):
    return VotedPair(query, document, {"a": 5 if positive else 1}, positive)


@pytest.fixture
def place(workplace):
    made = workplace([{"name": "a", "base_url": "http://127.0.0.1:9/v1", "model": "m"}])
    write_rows(
        made.config.output_file(CANDIDATES),
        [
            vars(Pool("q0", ["d0", "d3", "d5"], {}, {"d0": ["d4"]})),
            vars(Pool("q1", ["d1", "d2"])),
            vars(Pool("q2", ["d2"])),
        ],
    )
    votes = [
        vote("q0", "d0", True),  # labelled, with a duplicate that is not
        vote("q0", "d3", True),  # labelled irrelevant
        vote("q0", "d5", False),
        vote("q1", "d1", False),  # labelled positive
        vote("q1", "d2", None),
        vote("q2", "d2", True),
    ]
    write_rows(made.config.output_file(VOTES), [vars(one) for one in votes])
    return made


def test_what_is_voted_positive_and_has_no_label_is_added_and_nothing_else_changes(place):
    old = (place.data / "qrels" / "dev.tsv").read_bytes()
    false_negatives.run(place.config, no_progress)
    repaired = read_judgements(place.data / "qrels" / "dev.repaired.tsv", QUERIES, DOCUMENTS)
    assert repaired == {"q0": {**LABELS["q0"], "d4": 1}, "q1": LABELS["q1"], "q2": {**LABELS["q2"], "d2": 1}}
    assert (place.data / "qrels" / "dev.tsv").read_bytes() == old
    report = json.loads((place.output / false_negatives.FILE).read_text())
    assert report["counts"] == {"q0": 1, "q1": 0, "q2": 1}
    assert report["queries by count"] == {"0": 1, "1": 2}
    assert report["labelled irrelevant, voted positive"] == 1
    assert report["labelled positive, voted negative"] == 1


def test_the_repaired_labels_are_a_split_that_can_be_evaluated(place):
    false_negatives.run(place.config, no_progress)
    found = DataSet("retrieval", place.data)
    assert found.splits == ["dev", "dev.repaired"]
    assert found.read("dev.repaired").relevant["q2"] == {"d5": 1, "d2": 1}


def test_a_file_of_other_labels_is_never_written_over(place):
    false_negatives.run(place.config, no_progress)
    false_negatives.run(place.config, no_progress)  # the same once more
    file = place.data / "qrels" / "dev.repaired.tsv"
    file.write_text("query-id\tcorpus-id\tscore\nq0\td0\t3\n")
    with pytest.raises(CareError, match="exists with other labels"):
        false_negatives.run(place.config, no_progress)
    assert file.read_text().endswith("\t3\n")
    assert {f.name for f in file.parent.iterdir()} == {"dev.tsv", "dev.repaired.tsv"}


def test_the_old_file_is_never_written_over(workplace, place):
    made = workplace(place.values["judges"], **{"false-negatives": {"file": "data/qrels/dev.tsv"}})
    with pytest.raises(CareError, match="is the original file"):
        false_negatives.run(made.config, no_progress)


def test_another_place_and_grade_can_be_named(workplace, place, tmp_path):
    made = workplace(place.values["judges"], **{"false-negatives": {"file": "elsewhere.tsv", "grade": 3}})
    false_negatives.run(made.config, no_progress)
    assert read_judgements(tmp_path / "elsewhere.tsv", QUERIES, DOCUMENTS)["q2"] == {"d5": 1, "d2": 3}
    assert not (place.data / "qrels" / "dev.repaired.tsv").exists()


def test_without_labels_there_is_nothing_to_repair(workplace, place):
    made = workplace(place.values["judges"], split=None)
    with pytest.raises(CareError, match="set data and split"):
        false_negatives.run(made.config, no_progress)
