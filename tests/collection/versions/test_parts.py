"""A part of a version follows the table, and holds what a part that is opened anew holds."""

import numpy as np
import pytest

from care_accel import Collection
from care_accel.collection.storage.rows import ID
from care_accel.collection.storage.table import CHUNK, ROW_ID, Table
from care_accel.collection.storage.table_part import TablePart
from care_accel.collection.versions.parts import open_part


def rows(numbers, text):
    return [
        {"id": f"d{number}", "text": f"{text}第{number}条。" * (1 + number % 4), "year": number}
        for number in numbers
    ]


@pytest.mark.parametrize("options", [{}, {"chunk_tokens": 10}, {"chunk_tokens": 10, "lexical": True}])
def test_a_part_that_follows_the_table_is_one_that_is_opened_anew(model, tmp_path, options):
    collection = Collection.create(tmp_path / "collection", model, **options)
    changes = [
        lambda: collection.upsert(rows(range(20), "感冒怎么治疗，")),
        lambda: collection.upsert(rows(range(5, 12), "高血压怎么办，")),
        lambda: collection.delete(ids=[f"d{number}" for number in range(0, 20, 3)]),
        lambda: collection.upsert(rows(range(18, 30), "失眠，")),
        lambda: collection.compact(),
    ]
    held = [None] * 3
    vectors = model.encode_query(["感冒", "高血压怎么办"])
    for change in changes:
        change()
        table = Table.open(collection.uri)
        for number in range(3):
            part = TablePart(table, number, 3)
            followed, held[number] = open_part(part, collection.manifest, held[number])
            anew, _ = open_part(TablePart(table, number, 3), collection.manifest, None)
            guests = set(part.guests().tolist())
            expected = sorted(
                (row[ID], row[CHUNK])
                for row in part.read([ROW_ID, ID, CHUNK]).to_pylist()
                if row[ROW_ID] not in guests
            )
            for searcher in (followed, anew):
                alive = np.flatnonzero(searcher.snapshot.alive).tolist()
                assert sorted(searcher.names(alive)) == expected
            for condition in (None, "year >= 8"):
                found = [
                    [
                        [
                            (*one.names([hit.position])[0], hit.score, one.document(hit.position))
                            for hit in row
                        ]
                        for row in one.rank_vectors(vectors, 9, filter=condition)
                    ]
                    for one in (followed, anew)
                ]
                assert found[0] == found[1]
