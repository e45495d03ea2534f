import numpy as np
import pytest

from care_accel import CareError


def ids(hits):
    return [hit.id for hit in hits]


FILTERS = [
    ("foo = 1", "No field named foo; the fields are id"),
    ("year = 'x'", "Int64"),
    ("department > 3", "Utf8"),
    ("year >", "Expected: an expression"),
    ("year > 3 foo", "found: foo"),
    ("department = '儿科", "quotes do not match"),
    # Of all documents: a text is not another text.
    ("\"department\" != '儿科'", "double quotes are not taken; a name goes between backticks"),
    ('department = "儿科"', "a text in single quotes"),
    ("year > 3) OR (true", "parentheses"),
    ("true -- x", "comment"),
    ("", "give an expression"),
    (["year > 3"], "give an expression"),
    ("year", "filter 'year'"),
]


@pytest.mark.parametrize(("expression", "problem"), FILTERS)
def test_a_wrong_filter_is_one_clear_line(collection, expression, problem):
    for use in (
        lambda: collection.search("x", filter=expression),
        lambda: collection.delete(filter=expression),
    ):
        with pytest.raises(CareError, match=problem) as raised:
            use()
        assert "\n" not in str(raised.value)
    assert len(collection) == 10


def test_filters_leave_exactly_what_they_say(collection, brute_force, rows):
    for expression, keep in [
        ("department = '儿科'", lambda row: row["department"] == "儿科"),
        ("year BETWEEN 2003 AND 2005", lambda row: 2003 <= row["year"] <= 2005),
        ("id = 'd7'", lambda row: row["id"] == "d7"),
        ("text LIKE '%发热%' OR year = 2000", lambda row: "发热" in row["text"] or row["year"] == 2000),
        ("year > 3000", lambda row: False),
    ]:
        kept = [row for row in rows if keep(row)]
        hits = collection.search("发烧", k=4, filter=expression)
        expected = brute_force(kept, "发烧", 4)
        assert ids(hits) == [name for name, _ in expected]
        assert np.allclose([hit.score for hit in hits], [score for _, score in expected], atol=1e-6)
        assert collection.count(expression) == len(kept)
