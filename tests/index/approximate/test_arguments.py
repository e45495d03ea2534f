import numpy as np
import pytest

from care_accel import CareError
from care_accel.index.approximate.arguments import checked_recall, in_bytes, in_seconds


@pytest.mark.parametrize("recall", [0, 1, 1.5, -0.1, "high", None, True, float("nan"), np.array([0.9, 0.8])])
def test_what_is_no_recall_is_refused_in_one_line(recall):
    with pytest.raises(CareError, match="must be a number between 0 and 1") as refused:
        checked_recall(recall)
    assert "\n" not in str(refused.value)


def test_numbers_of_numpy_are_numbers():
    assert checked_recall(np.float32(0.5)) == 0.5
    assert in_bytes(np.int64(10)) == 10
    assert in_seconds(np.float32(0.5)) == 0.5


def test_a_recall_of_1_names_exact_search():
    with pytest.raises(CareError, match="search exactly"):
        checked_recall(1.0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, None), (10, 10), ("10", 10), ("2 GB", 2e9), ("1.5MiB", 1.5 * 2**20), (" 3kb ", 3000)],
)
def test_a_limit_has_a_unit_or_is_in_bytes(given, expected):
    assert in_bytes(given) == expected


@pytest.mark.parametrize(("given", "expected"), [(10, 10), ("5 min", 300), ("2h", 7200), ("0.5 s", 0.5)])
def test_a_budget_has_a_unit_or_is_in_seconds(given, expected):
    assert in_seconds(given) == expected


@pytest.mark.parametrize("wrong", [0, -1, "", "much", "2 XB", "1 2", [], True, float("inf")])
def test_what_is_no_quantity_is_refused(wrong):
    with pytest.raises(CareError, match=r"memory is .* positive number of bytes"):
        in_bytes(wrong)
    with pytest.raises(CareError, match=r"budget is .* positive number of seconds"):
        in_seconds(wrong)
