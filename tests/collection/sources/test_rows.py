import datetime
import math
from decimal import Decimal

import pytest

from care_accel import CareError
from care_accel.collection.sources.rows import BadRow, Selection


def document(values, fields=None, **names):
    return Selection(names.get("id"), names.get("text", "text"), names.get("title"), fields).document(
        values, "here"
    )


def field(value, kind=None):
    return document({"id": "a", "text": "", "x": value}, [f"x:{kind}" if kind else "x"])["x"]


@pytest.mark.parametrize("value", ["", "a", 0, -(2**63), 1.5, math.inf, True, None, [], ["a"]])
def test_values_of_json_keep_their_types(value):
    assert field(value) == value
    assert type(field(value)) is type(value)


@pytest.mark.parametrize(
    ("value", "kind", "wanted"),
    [
        (" 12 ", "int", 12),
        ("-3", "int", -3),
        (12.0, "int", 12),
        ("", "int", None),
        ("1.5", "float", 1.5),
        ("1e3", "float", 1000.0),
        (2, "float", 2.0),
        ("nan", "float", None),
        ("True", "bool", True),
        ("no", "bool", False),
        (False, "bool", False),
        (12, "str", "12"),
        (True, "str", "true"),
        ("", "str", ""),
        (Decimal("1.50"), "str", "1.50"),
        (datetime.date(2010, 1, 2), "str", "2010-01-02"),
        (None, "str", None),
        (math.nan, None, None),
        (Decimal("1.5"), "float", 1.5),
    ],
)
def test_values_are_turned_into_the_type_that_is_asked_for(value, kind, wanted):
    assert field(value, kind) == wanted
    assert type(field(value, kind)) is type(wanted)


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ("1.5", "int", "is '1.5', which is no int"),
        ("1_0", "int", "no int"),
        ("9" * 5000, "int", "no int"),
        (2.5, "int", "no int"),
        (math.inf, "int", "no int"),
        (True, "int", "no int"),
        ("x", "float", "no float"),
        ("maybe", "bool", "no bool"),
        (1, "bool", "no bool"),
        (["a"], "str", "no str"),
        ("x" * 99, "int", "xxx[.]{3}, which"),
        (2**63, None, "more than 64 bits"),
        ("9" * 19, "int", "more than 64 bits"),
        ({}, None, "is an object; fields are strings"),
        ([1], None, "is a list"),
        (b"a", None, "is a bytes"),
        (datetime.date(2010, 1, 2), None, "is a date; fields are .* take it as text with x:str"),
    ],
)
def test_other_values_are_refused(value, kind, words):
    with pytest.raises(BadRow, match=f"the field 'x'.*{words}"):
        field(value, kind)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"text": "a", "b": 1}, "'_id' or 'id' is missing; there are: text, b \\(--id says which it is\\)"),
        ({"id": "a"}, "'text' is missing; there are: id \\(--text says"),
        ({"id": "a", "_id": "b", "text": ""}, "there are both '_id' and 'id'"),
        *(({"id": value, "text": ""}, "'id' is") for value in (None, 1.0, True, ["a"], "", " ")),
        *(({"id": "a", "text": value}, "'text' is") for value in (None, 1, ["a"], {}, False)),
        ({"id": "a", "text": "", "title": 3}, "'title' is a number; it must be a string"),
    ],
)
def test_a_row_without_id_and_text_is_no_document(values, words):
    with pytest.raises(BadRow, match=words):
        document(values)


def test_a_title_that_is_null_is_empty_and_all_others_may_be_fields():
    values = {"_id": 1, "title": None, "text": "", "a": 1, "b": None}
    assert document(values, "*") == {"id": "1", "title": "", "text": "", "a": 1, "b": None}
    assert document(values, ["*", "a:str"])["a"] == "1"
    assert document(values, ["c"]) == {"id": "1", "title": "", "text": "", "c": None}


def test_a_field_never_hides_what_documents_have_of_their_own():
    with pytest.raises(
        CareError, match="here: 'text' cannot be a field, as documents have a text of their own"
    ):
        document({"id": "a", "body": "b", "text": "c"}, "*", text="body")
    with pytest.raises(CareError, match="cannot be named 'id'"):
        Selection(None, "text", None, ["id:int"])
    with pytest.raises(CareError, match="'year' is named twice"):
        Selection(None, "text", None, ["year:int", "year"])


def test_a_name_with_a_colon_is_one_where_no_type_follows():
    assert document({"id": "a", "text": "", "dc:date": "x"}, ["dc:date"])["dc:date"] == "x"


def test_columns_are_checked_by_their_names():
    def columns(names, *arguments):
        return Selection(*(arguments or (None, "text", None, None))).columns(names, "here")

    assert columns(["text", "a", "id"]) == ["id", "text"]
    assert columns(["", "text", "a", "id", "title"], None, "text", None, "*") == ["id", "text", "title", "a"]
    for names, arguments, words in (
        (["text", "a"], (), "here: '_id' or 'id' is missing"),
        (["id", "a"], (), "here: 'text' is missing; there are: id, a"),
        (["id", "text", "a", "a"], (), "here: there are two columns 'a'"),
        (["id", "text"], (None, "text", "head", None), "here: there is no 'head'; there are: id, text"),
        (
            ["id", "text"],
            (None, "text", None, ["year:integer"]),
            "no 'year:integer'; types are str, int, float, bool",
        ),
    ):
        with pytest.raises(CareError, match=words):
            columns(names, *arguments)
