"""Types of fields by the names that users give them."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from care_accel.collection.storage.rows import check_name
from care_accel.collection.storage.table import OWN
from care_accel.errors import CareError

KINDS = {
    "text": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "time": pa.timestamp("us"),
    "texts": pa.list_(pa.string()),
}


def declared(fields: Mapping[str, str]) -> list[pa.Field]:
    """Return the columns of declared fields.

    Raises
    ------
    CareError
        A name or a type is unknown or taken.
    """
    made = []
    for name, kind in fields.items():
        check_name(name, "fields")
        if name in OWN:
            raise CareError(f"fields: {name!r} is a part of every document; leave it out")
        if kind not in KINDS:
            raise CareError(f"fields: {name!r} is {kind!r}; the types are {', '.join(KINDS)}")
        made.append(pa.field(name, KINDS[kind]))
    return made
