import inspect

import numpy as np
import pytest

from care_accel import ApproximateIndex, ExactIndex
from care_accel.index import VectorIndex, load_index


@pytest.mark.parametrize("kind", [ExactIndex, ApproximateIndex])
def test_both_kinds_have_what_a_retriever_calls_with_the_same_parameters(kind):
    calls = [name for name in vars(VectorIndex) if not name.startswith("_")]
    assert {"search", "add", "remove", "replace", "save", "alive", "removed", "vectors"} <= set(calls)
    for name in calls:
        own, exact = getattr(kind, name), getattr(ExactIndex, name)
        if not isinstance(exact, property):
            assert list(inspect.signature(own).parameters) == list(inspect.signature(exact).parameters)


def test_a_folder_is_opened_as_the_kind_that_it_has(tmp_path):
    vectors = np.eye(6, dtype=np.float32)
    exact = ExactIndex(6, encoder_revision="r")
    exact.add(vectors)
    for index in (exact, ApproximateIndex.build(exact)):
        folder = tmp_path / type(index).__name__
        index.save(folder)
        again = load_index(folder)
        assert type(again) is type(index)
        assert again.encoder_revision == "r"
        np.testing.assert_array_equal(again.search(vectors, 2)[1], exact.search(vectors, 2)[1])
