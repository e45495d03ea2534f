from hypothesis import given
from hypothesis import strategies as st

from care_accel.encoding.batching import plan_batches


@given(st.lists(st.integers(0, 600), max_size=80), st.integers(1, 9), st.integers(1, 2000))
def test_every_text_comes_once_within_the_budgets_longest_first(lengths, batch_size, budget):
    batches = list(plan_batches(lengths, batch_size, budget))
    order = [i for batch in batches for i in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    for batch in batches:
        assert 1 <= len(batch) <= batch_size
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
