import numpy as np
import pytest

from care_accel.serving.backend.vector_cache import VectorCache, key_of

KEYS = {text: key_of(text, "sts") for text in "abc"}


def test_what_was_kept_is_found_by_text_and_task():
    cache = VectorCache(2)
    cache.put(key_of("头痛", "retrieval"), np.ones(3, np.float32), 4)
    vector, tokens = cache.get(key_of("头痛", "retrieval"))
    assert (vector.tolist(), tokens) == ([1, 1, 1], 4)
    assert cache.get(key_of("头痛", "sts")) is None
    assert cache.get(key_of("头", "retrieval")) is None


def test_the_one_not_used_for_longest_makes_room():
    cache = VectorCache(2)
    for text in "ab":
        cache.put(KEYS[text], np.zeros(1, np.float32), 1)
    cache.get(KEYS["a"])
    cache.put(KEYS["c"], np.zeros(1, np.float32), 1)
    assert [cache.get(KEYS[text]) is not None for text in "abc"] == [True, False, True]
    assert len(cache) == 2


def test_a_kept_vector_is_no_view_of_its_batch():
    batch = np.zeros((64, 3), np.float32)
    cache = VectorCache(1)
    cache.put(KEYS["a"], batch[0], 1)
    batch[:] = 7
    assert cache.get(KEYS["a"])[0].tolist() == [0, 0, 0]
    assert cache.get(KEYS["a"])[0].base is None


def test_no_capacity_keeps_nothing():
    cache = VectorCache(0)
    cache.put(KEYS["a"], np.zeros(1, np.float32), 1)
    assert cache.get(KEYS["a"]) is None
    assert len(cache) == 0


@pytest.mark.parametrize("text", ["", "\ud800", "😷" * 1000])
def test_any_text_has_a_key_of_its_own(text):
    assert len(key_of(text, "sts")) == 16
    assert key_of(text, "sts") != key_of(text + "a", "sts")
