"""Haystack's filters as expressions; `make clients` compares what they leave with Haystack's own."""

import datetime

import pytest

from care_accel import CareError
from care_accel.integrations.haystack_filters import sql_of


def one(operator, value, field="meta.year"):
    return {"field": field, "operator": operator, "value": value}


@pytest.mark.parametrize("nothing", [None, {}, ""])
def test_no_filters_are_none(nothing):
    assert sql_of(nothing) is None


def test_an_expression_stays_as_it_is():
    assert sql_of("year > 2000") == "year > 2000"


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        (3, "3"),
        (0.5, "0.5"),
        (-2021.0, "-2021"),
        (1e300, "1e+300"),
        (True, "true"),
        ("儿'科", "'儿''科'"),
        (datetime.date(2024, 1, 2), "date '2024-01-02'"),
        (datetime.datetime(2024, 1, 2, 3, 4), "timestamp '2024-01-02 03:04:00'"),
    ],
)
def test_values_are_written_as_literals(value, literal):
    assert sql_of(one("==", value)) == f"(`year` IS NOT NULL AND `year` = {literal})"


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("meta.year", "year"),
        ("year", "year"),
        ("id", "id"),
        ("content", "text"),
        ("meta.id", "id"),
        ("科室", "科室"),
    ],
)
def test_fields_are_columns_with_or_without_meta(field, column):
    assert sql_of(one("==", None, field)) == f"(`{column}` IS NULL)"


def test_conditions_are_joined_in_brackets():
    both = {
        "operator": "AND",
        "conditions": [one(">=", 2020), {"operator": "NOT", "conditions": [one("in", [1])]}],
    }
    assert sql_of(both) == (
        "((`year` IS NOT NULL AND `year` >= 2020) AND (NOT (((`year` IS NOT NULL AND `year` = 1)))))"
    )


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        ({"department": "儿科"}, "has no operator"),
        ({"operator": "AND"}, "neither a field nor conditions"),
        ({"operator": "XOR", "conditions": []}, "neither a field nor conditions"),
        ({"operator": "AND", "conditions": ["year"]}, "'year' has no operator"),
        ({"field": "meta.year", "operator": "=="}, "has no value"),
        (one("like", "x"), "the operator 'like' is unknown"),
        (one("in", "x"), "'in' takes a list"),
        (one("==", {}), "a value is a dict"),
        (one(">", [1]), "a value is a list"),
        (one("==", 1, "meta.a`b"), "the field is 'meta.a`b'"),
        (one("==", 1, "meta.a.b"), "the field is"),
        (one("==", 1, ""), "the field is ''"),
        (one("<", float("inf")), "a value is inf; give a finite number"),
        (one("==", 1, 3), "the field is 3"),
    ],
)
def test_what_is_no_filter_is_told(filters, words):
    with pytest.raises(CareError, match=words):
        sql_of(filters)
