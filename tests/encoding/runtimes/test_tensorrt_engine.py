"""What can be tested without an NVIDIA GPU: how shapes are chosen, and what is said when something is missing."""

import builtins

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_accel import CareError
from care_accel.encoding.runtimes.tensorrt_engine import (
    buckets_for,
    choose_bucket,
    import_tensorrt,
    stamp_mismatch,
)


@given(longest=st.integers(1, 8192), data=st.data())
def test_every_batch_up_to_the_longest_input_has_a_bucket_and_none_that_fits_is_smaller(longest, data):
    buckets = buckets_for(longest)
    assert len(set(buckets)) == len(buckets)
    batch, tokens = data.draw(st.integers(1, 100)), data.draw(st.integers(1, longest))
    chosen = buckets[choose_bucket(buckets, batch, tokens)]
    assert chosen.tokens >= tokens
    for other in buckets:
        if other.tokens >= tokens and other.batch >= batch:
            assert chosen.batch >= batch
            assert chosen.batch * chosen.tokens <= other.batch * other.tokens


def test_texts_longer_than_every_bucket_are_refused():
    with pytest.raises(CareError, match="a text has 65 tokens, but the engine was built for 64"):
        choose_bucket(buckets_for(64), 1, 65)


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    imported = builtins.__import__

    def without(name, *arguments):
        if name == "tensorrt":
            raise ImportError(name="tensorrt")
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CareError, match=r"pip install 'care-accel\[tensorrt\]'"):
        import_tensorrt()


def test_an_engine_of_another_release_or_gpu_is_told_with_both_names():
    here = {"tensorrt": "10.9.0", "gpu": "NVIDIA H100"}
    assert stamp_mismatch(dict(here), here) is None
    assert stamp_mismatch(here | {"tensorrt": "10.1.0"}, here) == (
        "its engine was built with TensorRT 10.1.0, this machine has TensorRT 10.9.0"
    )
    found = stamp_mismatch(here | {"gpu": "NVIDIA L4"}, here)
    assert "NVIDIA L4" in found
    assert "NVIDIA H100" in found
