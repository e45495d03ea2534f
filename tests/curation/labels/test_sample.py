import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_accel import CareError
from care_accel.curation.data import write_rows
from care_accel.curation.labels import sample
from care_accel.curation.labels.sample import as_csv, draw, escape, read_table
from care_accel.curation.labels.vote import FILE as VOTES
from care_accel.curation.labels.vote import VotedPair
from care_accel.curation.steps import no_progress

JUDGES = [{"name": name, "base_url": "http://127.0.0.1:9/v1", "model": "m"} for name in "ab"]
PAIRS = {f"d{i}": f"第{i}条文档" for i in range(60)}


def votes():
    """Return 10 pairs voted positive, 20 of which the judges differ, 30 that are negative for both."""
    rows = []
    for i in range(60):
        a, b = (5, 5) if i < 10 else (5, 2) if i < 30 else (1, 1)
        rows.append(VotedPair("q0", f"d{i}", {"a": a, "b": b}, i < 10))
    return rows


@pytest.fixture
def place(workplace):
    made = workplace(JUDGES, documents=PAIRS, labels={"q0": {"d0": 1}}, sample={"size": 24, "seed": 3})
    write_rows(made.config.output_file(VOTES), [vars(vote) for vote in votes()])
    return made


def rows_of(file):
    return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline="")))


def fill_in(place, name, grade, encoding="utf-8-sig", separator=","):
    """Write what an expert would send back: ``grade`` gives a cell by document."""
    rows = rows_of(place.output / sample.FILE)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, sample.COLUMNS, delimiter=separator)
    writer.writeheader()
    texts = {text: key for key, text in PAIRS.items()}
    for row in rows:
        writer.writerow({**row, "grade": grade(int(texts[row["document"]][1:]))})
    file = place.output.parent / f"{name}.csv"
    file.write_bytes(stream.getvalue().encode(encoding))
    return file


def test_as_many_of_each_kind_are_drawn_in_an_order_that_tells_nothing():
    drawn, sizes = draw(votes(), 24, 0, 4)
    kinds = [sample.stratum(vote, 4) for vote in drawn]
    assert [kinds.count(name) for name in sample.STRATA] == [8, 8, 8]
    assert sizes == {"positive": 10, "disputed": 20, "negative": 30}
    assert kinds != sorted(kinds)
    assert draw(votes(), 24, 0, 4)[0] == drawn
    assert draw(votes(), 24, 1, 4)[0] != drawn


def test_where_one_kind_has_too_few_the_others_have_more():
    drawn, _ = draw(votes(), 45, 0, 4)
    kinds = [sample.stratum(vote, 4) for vote in drawn]
    assert [kinds.count(name) for name in sample.STRATA] == [10, 18, 17]
    assert len(draw(votes(), 500, 0, 4)[0]) == 60


def test_the_table_shows_no_vote(place):
    sample.run(place.config, no_progress)
    file = place.output / sample.FILE
    assert file.stat().st_mode & 0o777 == 0o600
    rows = rows_of(file)
    assert len(rows) == 24
    assert set(rows[0]) == {"number", "query", "document", "grade", "remark"}
    for row in rows:
        assert (row["grade"], row["remark"]) == ("", "")
        assert row["query"] == "高血压怎么治"
        assert row["document"] in PAIRS.values()


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "＝", " =", "\n@"])
def test_no_cell_is_a_formula(begin):
    cell = f"{begin}HYPERLINK(1)"
    (row,) = csv.reader(io.StringIO(as_csv([(cell, "plain")]), newline=""))
    assert row == [f"'{cell}", "plain"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=4))
def test_cells_come_back_as_they_were_but_for_an_apostrophe(row):
    (found,) = csv.reader(io.StringIO(as_csv([row]), newline=""))
    assert found == escape(row)
    assert [
        cell.removeprefix("'") if cell != given else cell for cell, given in zip(found, row, strict=True)
    ] == row


def test_personal_data_is_not_in_the_table(workplace):
    made = workplace(JUDGES, documents={"d0": "加微信 doctor_88"}, labels={"q0": {"d0": 1}})
    write_rows(made.config.output_file(VOTES), [vars(VotedPair("q0", "d0", {"a": 5, "b": 5}, True))])
    sample.run(made.config, no_progress)
    assert rows_of(made.output / sample.FILE)[0]["document"] == "加微信 【微信】"


def test_a_table_that_may_be_filled_in_is_not_written_over(place):
    sample.run(place.config, no_progress)
    with pytest.raises(CareError, match="may be filled in already"):
        sample.run(place.config, no_progress)
    sample.run(place.config, no_progress, overwrite=True)


@pytest.mark.parametrize(
    ("encoding", "separator"), [("utf-8-sig", ","), ("gb18030", ","), ("utf-8", ";"), ("utf-8", "\t")]
)
def test_agreement_of_an_expert_with_the_vote_and_the_judges(place, encoding, separator):
    sample.run(place.config, no_progress)
    # The expert finds the first 5 and all that are disputed positive.
    file = fill_in(place, "wang", lambda i: "5" if i < 5 or 10 <= i < 30 else "2.0", encoding, separator)
    summary = sample.run(place.config, no_progress, read=[file])
    table = {row[1]: row for row in summary.table[1:]}
    key = sample.read_json(place.output / sample.KEY, "")["pairs"].values()
    positives = [int(pair["document"][1:]) for pair in key if pair["stratum"] == "positive"]
    right = sum(i < 5 for i in positives)
    assert table["the vote"][2:4] == ("24", f"{100 * (right + 8) / 24:.1f} %")
    # All disputed pairs wrong, all negative right: as many as there are among all pairs.
    assert table["the vote"][4] == f"{100 * (10 * right / 8 + 30) / 60:.1f} %"
    assert table["a"][3] == f"{100 * (right + 16) / 24:.1f} %"
    assert table["b"][3] == table["the vote"][3]


def test_experts_are_compared_with_each_other_and_open_cells_do_not_count(place):
    sample.run(place.config, no_progress)
    one = fill_in(place, "wang", lambda i: "5" if i % 2 else "")
    two = fill_in(place, "li", lambda i: "4")
    summary = sample.run(place.config, no_progress, read=[one, two])
    rows = {(row[0], row[1]): row for row in summary.table[1:]}
    odd = int(rows["wang", "the vote"][2])
    assert 0 < odd < 24
    assert rows["li", "wang"][2:4] == (str(odd), "100.0 %")
    assert summary.facts["graded by wang"] == f"{odd} of 24"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("number,grade\n1,6\n", "line 2: grade '6' is not an integer from 1 to 5"),
        ("number,grade\n1,4.5\n", "line 2: grade '4.5'"),
        ("number,grade\n1,gut\n", "line 2: grade 'gut'"),
        ("number,grade\n9,4\n", "line 2: number '9' is not in the sample"),
        ("number,grade\n1,4\n1,4\n", "line 3: duplicate number 1"),
        ("number,grade\n1,\n", "no grade is filled in"),
        ("id,mark\n1,4\n", "has no columns number and grade"),
        ("", "has no columns number and grade"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(tmp_path, text, words):
    file = tmp_path / "wang.csv"
    file.write_text(text)
    with pytest.raises(CareError) as mistake:
        read_table(file, {"1": {}})
    assert words in str(mistake.value)


def test_a_table_in_no_known_encoding_is_refused(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\xff\xff\x81")
    with pytest.raises(CareError, match="neither UTF-8 nor GB 18030"):
        read_table(tmp_path / "x.csv", {})
