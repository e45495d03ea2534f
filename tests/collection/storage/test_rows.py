import datetime

import numpy as np
import pyarrow as pa
import pytest

from care_accel import CareError
from care_accel.collection.storage.rows import FieldTypes, checked_id, documents


class Skipping(list):
    """Rows of which wrong ones are left out."""

    def reject(self, reason):
        return True


def test_a_row_that_is_left_out_decides_no_types():
    types = FieldTypes({})
    wrong = {"id": "a", "text": "", "year": "unknown", "beds": float("nan")}
    right = {"id": "b", "text": "", "year": 2020}
    assert [document.id for document in documents(Skipping([wrong, right]), types)] == ["b"]
    assert types.known == {"year": pa.int64()}


@pytest.mark.parametrize("unit", ["D", "s", "us", "ns"])
def test_a_time_of_numpy_is_a_time_in_any_unit(unit):
    types = FieldTypes({})
    value = types.checked({"day": np.datetime64("2024-02-29", unit)}, "row 0")["day"]
    assert value in (datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29))
    assert types.known["day"] in (pa.date32(), pa.timestamp("us"))


@pytest.mark.parametrize("moment", [datetime.datetime.min, datetime.datetime.max])
def test_a_time_that_utc_does_not_have_is_a_wrong_row(moment):
    offset = datetime.timedelta(hours=8 if moment.year == 1 else -8)
    moment = moment.replace(tzinfo=datetime.timezone(offset))
    with pytest.raises(CareError, match=r"row 0: field 'time' is .* no year from 1 to 9999 in UTC"):
        FieldTypes({}).checked({"time": moment}, "row 0")


def test_integers_that_python_does_not_write_are_told():
    with pytest.raises(CareError, match="row 0: the id is an integer of too many digits"):
        checked_id(10**5000, "row 0")
    with pytest.raises(CareError, match="row 0: field 'n' is an integer beyond 64 bits"):
        FieldTypes({}).checked({"n": 10**5000}, "row 0")
