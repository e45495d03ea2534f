import numpy as np

from care_accel.index.approximate.building.questions import Asked
from care_accel.index.approximate.building.tuning import Tuner


def test_codes_are_tried_with_lists_that_were_found_in_time_where_none_of_vectors_was_fast_enough():
    vectors = np.zeros((3000, 4), dtype=np.float32)
    tuner = Tuner(
        base=(),
        ids=None,
        vectors=vectors,
        asked=Asked(vectors[:1], np.zeros((1, 10))),
        recall=0.9,
        k=10,
        threads=1,
        seed=0,
        memory=None,
        until=0.0,
    )
    tuner._lists[55] = None  # more took too long
    kinds = [kind for kind, _ in tuner.family(None)]
    assert {kind.lists for kind in kinds if kind.codes != "Flat" and not kind.links} == {55}
    assert {kind.codes for kind in kinds if kind.lists == 55} == {"Flat", "SQ8", "PQ", "RaBitQ"}
