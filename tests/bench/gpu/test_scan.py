"""What the benchmark of the scan on a GPU sets and divides by, without a GPU."""

from types import SimpleNamespace

import pytest

from bench.gpu import test_cuda_scan as suite


class Index:
    """Notes the limit on columns of every search."""

    def __init__(self):
        self._parts = [SimpleNamespace(scan=SimpleNamespace(max_columns=0)) for _ in range(2)]
        self.seen = []

    def search_on_device(self, queries, k):
        self.seen.append([part.scan.max_columns for part in self._parts])
        return None, queries


def test_engines_in_turns_search_one_index_by_their_own_limits(monkeypatch):
    index = Index()
    monkeypatch.setattr(suite, "index_of", lambda rows, width: index)
    names = [suite.OURS, *suite.LIMITED]
    searches = [suite.ENGINES[name](10, 3) for name in names]
    for search in searches * 2:
        search([1])
    assert index.seen == [[limit, limit] for limit in (0, 64, 128)] * 2


def test_every_number_of_queries_that_is_divided_otherwise_is_measured():
    queries = {queries for rows, _, queries in suite.CASES["full"] if rows == 1_000_000}
    assert {1, 32, 64, 128, 256} <= queries
    assert suite.LIMITED == {"care_accel, 64 columns at once": 64, "care_accel, 128 columns at once": 128}


@pytest.mark.parametrize(
    ("engine", "count", "expected"),
    [
        ("care_accel", 1, {"GPU read bandwidth": 10 * 1000 * 768}),
        ("care_accel", 256, {"GPU read bandwidth": 10 * 1000 * 768, "GPU int8 rate": 10 * 1000 * 768 * 256}),
        (
            "care_accel, 64 columns at once",
            128,
            {"GPU read bandwidth": 10 * 1000 * 768, "GPU int8 rate": 10 * 1000 * 768 * 128},
        ),
        ("torch float16", 256, {"GPU read bandwidth": 2 * 10 * 1000 * 768}),
        ("torch float32", 1, {"GPU read bandwidth": 4 * 10 * 1000 * 768}),
    ],
)
def test_the_limit_is_one_read_of_what_an_engine_stores(engine, count, expected):
    assert suite.limit_of(engine, 1000, 768, count) == expected
