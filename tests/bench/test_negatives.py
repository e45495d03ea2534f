"""The comparison of negatives in bench/: what each side trains on, and its table."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from care_accel.eval.scores import QueryScores

FILE = Path(__file__).parents[2] / "bench" / "curation" / "negatives.py"


@pytest.fixture(scope="module")
def negatives():
    spec = importlib.util.spec_from_file_location("bench_negatives", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def sets(negatives):
    return {
        name: negatives.Known(
            [], {f"{name}问": {f"{name}答"}}, [f"{name}答", *(f"{name}{i}" for i in range(9))]
        )
        for name in ("甲", "乙")
    }


@pytest.mark.parametrize("drawn", [True, False])
def test_each_row_gets_as_many_negatives_of_its_own_set_and_never_an_answer(negatives, sets, drawn):
    rows = [{"query": f"{name}问", "pos": [f"{name}答"], "neg": ["难一", "难二"]} for name in sets]
    found = negatives.by_set(rows, sets, 0, drawn=drawn)
    for name, (row,) in found.items():
        assert len(set(row["neg"])) == negatives.NEGATIVES
        assert (row["neg"][:2] == ["难一", "难二"]) != drawn
        assert f"{name}答" not in row["neg"]
        assert all(text.startswith(name) for text in row["neg"][0 if drawn else 2 :])
    assert negatives.by_set(rows, sets, 0, drawn=drawn) == found
    assert negatives.by_set(rows, sets, 1, drawn=drawn) != found


def test_the_table_has_means_spreads_and_the_difference_of_each_seed(negatives):
    def run(value):
        return {
            task: QueryScores(task, "ndcg_at_10", "mean", np.full(4, value), tuple("abcd"))
            for task in negatives.TASKS
        }

    scores = {
        negatives.BEFORE: [run(0.2)],
        negatives.RANDOM: [run(0.4), run(0.5)],
        "curated": [run(0.5), run(0.5)],
    }
    lines = negatives.tables(scores).splitlines()
    assert lines[2].startswith("| Stage I alone | 20.00 |")
    assert lines[3].startswith("| random | 45.00 ± 7.07 |")
    assert lines[5].startswith("| curated, less random | +5.00 (+5.00 to +5.00, p ")
    assert lines[6].startswith("| by seed | +10.00, +0.00 |")
