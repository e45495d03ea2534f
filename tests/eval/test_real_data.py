"""What only real data shows; `make test` looks for it in ``$CARE_DATA``."""

import os
from pathlib import Path

import mteb
import pytest

from care_accel import DualEncoder
from care_accel.eval.baselines import BM25Model, untrained
from care_accel.eval.mteb_model import MtebModel
from care_accel.eval.tasks import folder_tasks

DATA = Path(os.environ.get("CARE_DATA", "data"))
pytestmark = pytest.mark.skipif(
    not (DATA / "reranking" / "kuake-qtr" / "dev.jsonl.gz").is_file(),
    reason=f"the real data sets are not in {DATA} ($CARE_DATA); the repository may not hold them",
)

# nDCG@10 and MAP in percent, measured once with other code: k1 1.2, b 0.75, characters as 1- and 2-grams.
BM25_LEVELS = {"retrieval/epilepsy-qa": 21.9, "reranking/epilepsy-qa": 47.4, "reranking/kuake-qtr": 81.1}


def scores(model, pattern):
    tasks, _ = folder_tasks(DATA, "dev", [pattern])
    results = mteb.evaluate(model, tasks, cache=None, co2_tracker=False, show_progress_bar=False).task_results
    return {result.task_name: 100 * result.scores["dev"][0]["main_score"] for result in results}


@pytest.mark.parametrize("name", BM25_LEVELS)
def test_bm25_is_at_the_level_that_is_known(name):
    assert scores(BM25Model(), name) == {name: pytest.approx(BM25_LEVELS[name], abs=1.5)}


def test_care_mini_is_far_above_its_untrained_twin_on_a_set_it_never_saw(tmp_path):
    model, name = DualEncoder.from_pretrained("care-mini", dtype="int8"), "sts/covid-pairs"
    trained, empty = (scores(MtebModel(m), name)[name] for m in (model, untrained(model, tmp_path)))
    assert trained > 30
    assert abs(empty) < 10
