import numpy as np
import pytest

from care_accel.serving.backend.vector_cache import VectorCache


def test_what_was_kept_is_found_by_text_and_task():
    cache = VectorCache(2)
    cache.put("头痛", "retrieval", np.ones(3, np.float32), 4)
    vector, tokens = cache.get("头痛", "retrieval")
    assert (vector.tolist(), tokens) == ([1, 1, 1], 4)
    assert cache.get("头痛", "sts") is None
    assert cache.get("头", "retrieval") is None


def test_the_one_not_used_for_longest_makes_room():
    cache = VectorCache(2)
    for text in "ab":
        cache.put(text, "sts", np.zeros(1, np.float32), 1)
    cache.get("a", "sts")
    cache.put("c", "sts", np.zeros(1, np.float32), 1)
    assert [cache.get(text, "sts") is not None for text in "abc"] == [True, False, True]
    assert len(cache) == 2


def test_a_kept_vector_is_no_view_of_its_batch():
    batch = np.zeros((64, 3), np.float32)
    cache = VectorCache(1)
    cache.put("a", "sts", batch[0], 1)
    batch[:] = 7
    assert cache.get("a", "sts")[0].tolist() == [0, 0, 0]
    assert cache.get("a", "sts")[0].base is None


def test_no_capacity_keeps_nothing():
    cache = VectorCache(0)
    cache.put("a", "sts", np.zeros(1, np.float32), 1)
    assert cache.get("a", "sts") is None
    assert len(cache) == 0


@pytest.mark.parametrize("text", ["", "\ud800", "😷" * 1000])
def test_any_text_can_be_kept(text):
    cache = VectorCache(1)
    cache.put(text, "sts", np.zeros(1, np.float32), 1)
    assert cache.get(text, "sts") is not None
