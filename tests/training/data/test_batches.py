import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel.errors import CareError
from care_accel.training.data.batches import LengthGroupedBatchSampler

rows = st.lists(st.tuples(st.text("ab", max_size=4), st.text("cd", max_size=30)), min_size=1, max_size=60)


def sampler(pairs, size, **options):
    table = Dataset.from_dict(
        {"query": [q for q, _ in pairs], "positive": [d for _, d in pairs], "label": [[0.0]] * len(pairs)}
    )
    return LengthGroupedBatchSampler(table, size, **{"drop_last": False} | options)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 9))
def test_no_text_is_twice_in_a_batch_and_no_row_twice_in_an_epoch(pairs, size):
    found = sampler(pairs, size)
    batches = list(found)
    assert len(batches) == len(found)
    used = [row for batch in batches for row in batch]
    assert len(set(used)) == len(used)
    for batch in batches:
        assert 1 <= len(batch) <= size
        for column in (0, 1):
            assert len({pairs[row][column] for row in batch}) == len(batch)


def test_every_row_is_used_where_no_text_repeats_and_lengths_stay_together():
    pairs = [(f"q{i}", "d" * i) for i in np.random.default_rng(0).permutation(1000)]
    batches = list(sampler(pairs, 10))
    assert sorted(row for batch in batches for row in batch) == list(range(1000))
    spreads = [np.ptp([len(pairs[row][1]) for row in batch]) for batch in batches]
    assert np.mean(spreads) < 30  # of 1,000
    assert np.corrcoef([len(pairs[batch[0]][1]) for batch in batches], range(100))[0, 1] < 0.3


def test_epochs_differ_and_the_seed_repeats_them():
    pairs = [(f"q{i}", f"d{i}") for i in range(50)]
    one, other = sampler(pairs, 7, seed=3), sampler(pairs, 7, seed=3)
    assert list(one) == list(other)
    other.set_epoch(1)
    assert list(one) != list(other)
    assert list(one) != list(sampler(pairs, 7, seed=4))


@pytest.mark.parametrize("count", [1, 5, 6])
def test_the_last_batch_may_be_smaller(count):
    assert sorted(len(batch) for batch in sampler([(f"q{i}", f"d{i}") for i in range(count)], 5)) == sorted(
        [5] * (count // 5) + ([count % 5] if count % 5 else [])
    )


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 9))
def test_several_processes_get_full_batches_only(pairs, size):
    if len(pairs) < size:
        with pytest.raises(
            CareError, match=f"a file has {len(pairs)} rows, the batch of all processes {size}"
        ):
            sampler(pairs, size, drop_last=True)
        return
    found = sampler(pairs, size, drop_last=True)
    batches = list(found)
    assert all(len(batch) == size for batch in batches)
    assert len(batches) <= len(found) == len(pairs) // size
