"""A corpus of several files, and tables that are compared."""

import json

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from care_accel import Collection
from care_accel.collection.storage.table import OWN, VECTOR

WORDS = ["高血压", "糖尿病", "感冒", "儿童发热", "胃炎", "骨折", "头痛", "咳嗽三天", "失眠", "过敏性鼻炎"]


def document(number, draft=0):
    return {
        "id": f"d{number}",
        "title": "标题" * (number % 3),
        "text": f"{WORDS[number % 10] * (1 + number % 4)}，第{number}条，第{draft}稿",
        "year": 2000 + number,
    }


def write_lines(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def write_parquet(file, rows, group):
    parquet.write_table(pa.Table.from_pylist(rows), file, row_group_size=group)
    return file


def content(collection):
    """Return all rows of a collection, or of that in a folder, by document and chunk, with their columns in one order."""
    opened = collection if isinstance(collection, Collection) else Collection.open(collection)
    opened.refresh()
    table = opened._state.table
    found = table.read([*OWN, *sorted(table.fields)])
    return found.sort_by([("id", "ascending"), ("_chunk", "ascending")]).combine_chunks()


def require_equal(one, other):
    """Require the same rows, and the same vectors to the last bit."""
    names = [name for name in one.column_names if name != VECTOR]
    assert one.column_names == other.column_names
    assert one.select(names).to_pylist() == other.select(names).to_pylist()
    bits = [np.asarray(table[VECTOR].combine_chunks().flatten()).view(np.uint32) for table in (one, other)]
    assert np.array_equal(*bits)
