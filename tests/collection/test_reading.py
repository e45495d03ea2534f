"""What an open collection says of its fields and of rows that are not written yet."""

import math
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from care_accel import CareError, Collection


def test_values_of_fields_are_counted_most_frequent_first(collection, rows):
    assert collection.field_values() == {"department": {"儿科": 5, "内科": 5}}
    collection.upsert([{"id": "new", "text": "x", "department": "内科", "tags": ["a"], "note": "长" * 101}])
    assert list(collection.field_values()["department"].items()) == [("内科", 6), ("儿科", 5)]
    assert collection.field_values().keys() == {"department"}, "numbers, lists and long texts are left out"
    assert collection.field_values(most=1) == {}
    with pytest.raises(CareError, match="most"):
        collection.field_values(0)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(
        st.none() | st.sampled_from(["", "儿科", "it's", "a\\", '"', "`"]) | st.text(max_size=3), max_size=30
    )
)
def test_each_value_is_a_filter_for_as_many_documents_as_are_counted(collection, values):
    collection.delete(filter="true")
    collection.upsert([{"id": n, "text": "x", "科 室": value} for n, value in enumerate(values)])
    found = collection.field_values(most=40).get("科 室", {})
    assert found == Counter(value for value in values if value is not None)
    for value, count in found.items():
        quoted = value.replace("'", "''")
        assert collection.count(f"`科 室` = '{quoted}'") == count


def test_rows_are_checked_as_they_are_when_written_and_nothing_is(collection):
    version = collection.version
    collection.check_rows([{"id": "x", "text": "x", "year": 2000, "new": 1}])
    with pytest.raises(CareError, match=r"row 1 \(id 'y'\): field 'new' is a text"):
        collection.check_rows([{"id": "x", "text": "x", "new": 1}, {"id": "y", "text": "y", "new": "1"}])
    with pytest.raises(CareError, match="row 0: the id is missing"):
        collection.check_rows([{"text": "x"}])
    collection.refresh()
    assert (collection.version, "new" in collection.fields) == (version, False)


def test_no_ids_are_no_documents(collection):
    assert collection.get([]) == []


def test_a_negative_number_of_documents_to_encode_is_refused(collection):
    with pytest.raises(CareError, match="encode is -3"):
        collection.verify(encode=-3)


def test_versions_can_be_kept_for_ever(collection):
    before = len(collection.versions())
    collection.compact(keep_days=math.inf)
    assert len(collection.versions()) > before


@pytest.mark.parametrize("name", ["articles", "articles:2024", "文 章/a%20b#c?d"])
def test_a_relative_path_stays_where_it_was_when_the_process_goes_elsewhere(
    model, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    made = Collection.create(name, model)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    made.upsert([{"id": "a", "text": "一"}])
    assert [hit.id for hit in made.search("一")] == ["a"]
    assert not list((tmp_path / "elsewhere").iterdir())
    assert sorted(entry.name for entry in (tmp_path / name).iterdir()) == ["documents.lance", "index"]
