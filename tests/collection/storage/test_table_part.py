"""Parts of a table: together they are the table, and a document's first chunk is with all its chunks."""

import itertools

import pytest

from care_accel import CareError, Collection
from care_accel.collection.storage.rows import ID
from care_accel.collection.storage.table import CHUNK, ROW_ID, TEXT, Table
from care_accel.collection.storage.table_part import TablePart


@pytest.fixture(scope="module")
def tables(model, tmp_path_factory):
    """Return tables of several fragments with deleted rows, of whole documents and of chunks."""
    found = []
    for number, options in enumerate(({}, {"chunk_tokens": 10})):
        collection = Collection.create(
            tmp_path_factory.mktemp("parts") / str(number), model, fields={"year": "int"}, **options
        )
        for start in (0, 5, 12):
            collection.upsert(
                [
                    {"id": f"d{i}", "text": f"第{i}条，感冒怎么治疗。" * (1 + i % 4), "year": i}
                    for i in range(start, start + 9)
                ]
            )
        collection.delete(ids=["d1", "d7", "d20"])
        found.append(Table.open(collection.uri))
    return found


@pytest.mark.parametrize("of", [1, 2, 3, 7, 100])
def test_the_parts_are_the_table(tables, of):
    for table in tables:
        parts = [TablePart(table, number, of) for number in range(of)]
        own = []
        for part in parts:
            guests = set(part.guests().tolist())
            rows = part.read([ROW_ID, ID, CHUNK, TEXT]).to_pylist()
            own.append([row[ROW_ID] for row in rows if row[ROW_ID] not in guests])
            assert {row[ID] for row in rows} == {row[ID] for row in rows if row[CHUNK] == 0}
        assert sorted(itertools.chain(*own)) == sorted(table.read([ROW_ID])[ROW_ID].to_pylist())
        assert max(map(len, own)) - min(map(len, own)) <= 1
        assert sum(part.documents for part in parts) == table.count(f"{CHUNK} = 0")


def test_a_filter_finds_the_documents_that_have_a_chunk_in_a_part(tables):
    for table in tables:
        for number in range(3):
            part = TablePart(table, number, 3)
            here = set(part.read([ROW_ID])[ROW_ID].to_pylist())
            expected = set(table.filtered("year >= 8").tolist()) & here
            assert set(part.filtered("year >= 8").tolist()) & here == expected


def test_a_mistake_in_a_filter_is_told_by_an_empty_part(tables):
    with pytest.raises(CareError, match="nothing"):
        TablePart(tables[0], 0, 100).filtered("nothing = 1")
    with pytest.raises(CareError, match="no part 2 of 2"):
        TablePart(tables[0], 2, 2)
