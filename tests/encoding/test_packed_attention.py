import inspect
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import varlen

from care_accel.encoding import packed_attention as module
from care_accel.encoding.packed_attention import packed_attention


def plain(query, keys, values, starts, key_starts, scale, causal):
    """Attention text by text and head by head, in float64."""
    found = np.zeros(query.shape)
    group = query.shape[1] // keys.shape[1]
    for (first, last), (start, end) in zip(pairwise(starts), pairwise(key_starts), strict=True):
        for head in range(query.shape[1]):
            products = scale * query[first:last, head] @ keys[start:end, head // group].T
            if causal:
                products[np.triu_indices(last - first, 1)] = -np.inf
            weights = np.exp(products - products.max(axis=1, keepdims=True))
            found[first:last, head] = (
                weights / weights.sum(axis=1, keepdims=True) @ values[start:end, head // group]
            )
    return found


def pack_of(lengths, key_heads, group, size, one_query=False, seed=0):
    random = np.random.default_rng(seed)
    key_starts = np.concatenate([[0], np.cumsum(lengths)])
    starts = np.arange(len(lengths) + 1) if one_query else key_starts
    query = random.normal(size=(starts[-1], key_heads * group, size))
    keys, values = random.normal(size=(2, key_starts[-1], key_heads, size))
    return query, keys, values, starts, key_starts


def tensors(query, keys, values, starts, key_starts, dtype=torch.float32):
    parts = [torch.from_numpy(part).to(dtype) for part in (query, keys, values)]
    return [*parts, *(torch.from_numpy(part).to(torch.int32) for part in (starts, key_starts))]


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    key_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    size=st.sampled_from([1, 4, 7]),
    kind=st.sampled_from(["all", "causal", "one query"]),
)
def test_a_query_attends_to_its_own_text_alone(lengths, key_heads, group, size, kind):
    pack = pack_of(lengths, key_heads, group, size, one_query=kind == "one query")
    found = packed_attention(*tensors(*pack), max(lengths), max(lengths), 0.3, kind == "causal")
    np.testing.assert_allclose(found, plain(*pack, 0.3, kind == "causal"), atol=1e-5)


def test_the_operator_is_what_the_compiler_takes_it_for():
    pack = tensors(*pack_of([3, 1, 5], 2, 2, 8))
    pack[0] = pack[0].transpose(0, 1).contiguous().transpose(0, 1)  # as a network has it
    torch.library.opcheck(
        packed_attention, (*pack, 5, 5, 0.5, True), test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize("kind", ["all", "causal", "one query"])
@pytest.mark.parametrize("told", [True, False], ids=["told of groups", "not told of groups"])
def test_a_gpu_is_asked_for_the_same(monkeypatch, kind, told):
    # The call that a GPU gets, on a processor: with the arguments of the installed release, and with those of older ones.
    known = inspect.signature(varlen.varlen_attn)

    def on_a_processor(query, keys, values, starts, key_starts, longest, longest_key, **options):
        grouped = options.pop("enable_gqa", None)
        assert grouped in ((True,) if told else (None,))
        bound = known.bind(query, keys, values, starts, key_starts, longest, longest_key, **options).arguments
        causal = {(-1, 0): True, (-1, -1): False}[bound["window_size"]]
        assert query.is_contiguous()
        return packed_attention(
            query, keys, values, starts, key_starts, longest, longest_key, bound["scale"], causal
        )

    if told:
        on_a_processor.__signature__ = known
    pack = pack_of([3, 1, 5], 2, 2, 8, one_query=kind == "one query")
    monkeypatch.setattr(varlen, "varlen_attn", on_a_processor)
    found = module._on_cuda(*tensors(*pack), 5, 5, 0.3, kind == "causal")
    np.testing.assert_allclose(found, plain(*pack, 0.3, kind == "causal"), atol=1e-5)


def test_a_release_without_what_a_gpu_needs_is_named(monkeypatch):
    assert module.missing_on_a_gpu() is None
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, keys, values, starts, is_causal: None)
    assert "2.11 has" in module.missing_on_a_gpu()
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert "2.11 has" in module.missing_on_a_gpu()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["all", "causal", "one query"])
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_gpu_computes_the_same(dtype, group, kind):
    lengths = [1, 300, 17, 128, 64]
    pack = pack_of(lengths, 2, group, 64, one_query=kind == "one query")
    there = [part.cuda() for part in tensors(*pack, dtype)]
    found = packed_attention(*there, 512, 512, 0.1, kind == "causal").float().cpu()
    np.testing.assert_allclose(found, plain(*pack, 0.1, kind == "causal"), atol=3e-2)
