import pytest

from care_accel import CareError
from care_accel.encoding import AsyncServerClient, ServerClient


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": "1"},
        {"timeout": float("nan")},
        {"retries": -1},
        {"in_flight": 0},
        {"retries": True},
    ],
)
@pytest.mark.parametrize("kind", [ServerClient, AsyncServerClient])
def test_limits_that_make_no_sense_are_refused(kind, options):
    with pytest.raises(CareError, match=next(iter(options))):
        kind("localhost:8001", **options)
