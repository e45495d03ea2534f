import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel.kernels import ORDERS, POOLINGS, pool, project


def plain_pool(hidden, mask, pooling):
    """Pooling in float64, a row at a time."""
    rows = []
    for states, kept in zip(hidden.double().numpy(), mask.numpy().astype(bool), strict=True):
        tokens = states[kept]
        rows.append({"first": tokens[0], "last": tokens[-1], "mean": tokens.mean(axis=0)}[pooling])
    return np.stack(rows)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 9), st.sampled_from(POOLINGS), st.booleans())
def test_pooling_sees_tokens_only_whichever_side_is_padded(data, batch, tokens, pooling, left):
    lengths = data.draw(st.lists(st.integers(1, tokens), min_size=batch, max_size=batch))
    mask = torch.tensor([[1] * n + [0] * (tokens - n) for n in lengths])
    mask = mask.flip(1) if left else mask
    hidden = torch.randn(batch, tokens, 7, generator=torch.Generator().manual_seed(0))
    hidden[mask == 0] = 1e6  # what stands at padding must not matter
    found = pool(hidden, mask, pooling)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, plain_pool(hidden, mask, pooling), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("width", [1, 5, 12])
def test_normalise_then_slice_keeps_the_norm_of_the_full_vector(width):
    pooled = torch.randn(6, 12)
    full = pooled.double().numpy()
    expected = (full / np.linalg.norm(full, axis=1, keepdims=True))[:, :width]
    np.testing.assert_allclose(project(pooled, width, "normalize-then-slice"), expected, atol=1e-6)


@pytest.mark.parametrize("width", [1, 5, 12])
def test_slice_then_normalise_gives_length_one(width):
    found = project(torch.randn(6, 12), width, "slice-then-normalize")
    np.testing.assert_allclose(found.norm(dim=1), np.ones(6), atol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_a_zero_vector_stays_zero(order):
    assert project(torch.zeros(2, 4), 3, order).tolist() == [[0.0] * 3] * 2


def test_an_unknown_pooling_or_order_is_refused():
    with pytest.raises(ValueError, match="unknown pooling 'max'"):
        pool(torch.zeros(1, 1, 1), torch.ones(1, 1), "max")
    with pytest.raises(ValueError, match="unknown order 'none'"):
        project(torch.zeros(1, 1), 1, "none")
