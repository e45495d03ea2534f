"""A user's filter, before and after Lance has read it."""

from functools import partial

import pyarrow as pa
import pytest

from care_accel import CareError, Collection
from care_accel.collection.storage.filters import filter_errors, is_enclosed


@pytest.mark.parametrize(
    ("expression", "enclosed"),
    [
        ("a = 1", True),
        ("(a = 1) OR (b = 2)", True),
        ("a = ')' AND b = 'x''y'", True),
        ("`a)` = 1", True),
        ("a = 1) OR (b = 2", False),
        ("a = 'x", False),
        ("a = 1 -- b", False),
        ("a = 1; b", False),
        ("a /* b */ = 1", False),
        ("((a = 1)", False),
    ],
)
def test_a_filter_stays_in_its_parentheses(expression, enclosed):
    assert is_enclosed(expression) is enclosed


def test_a_wrong_filter_shows_names_as_a_filter_has_to_write_them():
    fields = {"科室 名称": pa.string(), "year": pa.int64()}
    with pytest.raises(CareError, match=r"`科室 名称` \(a text\), year \("), filter_errors("x", fields):
        raise ValueError("Expected: )")


@pytest.fixture
def empty_field(model, tmp_path):
    """Return a collection with a text field that no document has, and one of each other type."""
    kinds = {"department": "text", "year": "int", "dose": "float", "day": "date", "at": "time", "new": "bool"}
    made = Collection.create(tmp_path / "c", model, fields=kinds | {"科室_2": "text"})
    made.upsert([{"id": "1", "text": "一", "year": 1}, {"id": "2", "text": "二", "year": 3, "dose": 3.0}])
    return made


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("year = department", "department is a text and cannot be compared with a number"),
        ("department != year", "department is a text and cannot be compared with a number"),
        ("NOT (dose <= `department`)", "department is a text and cannot be compared with a number"),
        ("year = id", "id is a text and cannot be compared with a number"),
        ("year = `科室_2`", "科室_2 is a text and cannot be compared with a number"),
        ("year IN (department)", "department is a text"),
        ("year BETWEEN 1 AND department", "department is a text"),
        ("year + 1 = department", "department is a text"),
        ("year IS DISTINCT FROM department", "department is a text"),
        ("day = department", "department is a text and cannot be compared with a date or time"),
        ("day = year", "year is an integer and cannot be compared with a date or time"),
        ("new = department", "Boolean = Utf8"),
    ],
)
def test_fields_of_other_kinds_are_not_compared_even_if_one_has_no_values(empty_field, expression, problem):
    with pytest.raises(CareError, match=problem) as raised:
        empty_field.search("x", filter=expression)
    assert "the fields are id (a text)" in str(raised.value)
    with pytest.raises(CareError, match=problem):
        empty_field.delete(filter=expression)
    assert len(empty_field) == 2


@pytest.mark.parametrize(
    ("expression", "left"),
    [
        ("year = dose", {"2"}),
        ("day > at", set()),
        ("department = id", set()),
        ("cast(id as bigint) = year", {"1"}),
        ("year = length(text)", {"1"}),
        ("concat(id, year) = '11'", {"1"}),
        ("text = 'CAST(department AS Int64) = year' OR id = '2'", {"2"}),
        ("text LIKE '一' AND text != '_chunk'", {"1"}),
        ("`科室_2` IS NULL AND 科室_2 IS NULL", {"1", "2"}),
    ],
)
def test_what_can_be_compared_is(empty_field, expression, left):
    assert {hit.id for hit in empty_field.search("x", filter=expression)} == left


OWN = [
    "_chunk",
    "_CHUNK",
    "`_hash`",
    "_row_hash",
    "_start",
    "_end",
    "_vector",
    "_rowid",
    "_rowaddr",
    "_rowoffset",
]


@pytest.mark.parametrize("chunking", [{}, {"chunk_tokens": 8}], ids=["whole", "chunks"])
def test_columns_of_the_table_itself_are_no_fields(model, tmp_path, chunking):
    made = Collection.create(tmp_path / "c", model, **chunking)
    made.upsert([{"id": "1", "text": "一", "year": 1}])
    uses = made.count, partial(made.search, "x"), made.delete
    for name in (*OWN, "_row_last_updated_at_version"):
        for use in uses:
            with pytest.raises(
                CareError, match=f"No field named {name.strip('`')}; the fields are id .*year"
            ):
                use(filter=f"year = 1 OR {name} IS NOT NULL")
    assert len(made) == 1
