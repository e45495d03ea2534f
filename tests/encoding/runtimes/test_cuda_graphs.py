"""Buckets, padding and buffers, with a stand-in for the capture where there is no GPU; with one, the graphs."""

import logging

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from care_accel.encoding import EncoderSpec
from care_accel.encoding.last_layer import PooledNetwork
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.runtimes.compiled import with_compiled_layers
from care_accel.encoding.runtimes.cuda_graphs import MAX_BUCKET_TOKENS, CudaGraphs, buckets_up_to
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def recorded(forward, ids, mask):
    """Replay as a graph does: no arguments, what stands in the buffers goes through, into the same output."""
    out = forward(ids, mask).clone()
    return lambda: out.copy_(forward(ids, mask))


def runtime_of(folder, device="cpu", pooling="last", dtype="float32", max_tokens=64, **options):
    order = "normalize-then-slice"
    spec = EncoderSpec(pooling=pooling, order=order, width=20, device=device, max_tokens=max_tokens)
    return PyTorchRuntime(Checkpoint(folder).load_network(dtype), spec, **options)


def batch_of(lengths, left=False):
    tokens = max(lengths)
    mask = np.array([[1] * n + [0] * (tokens - n) for n in lengths], dtype=np.int64)
    mask = mask[:, ::-1].copy() if left else mask
    return np.random.default_rng(0).integers(5, 40, mask.shape) * mask, mask


BATCHES = [
    batch_of([5, 3, 1]),
    batch_of([5, 3, 1], left=True),
    batch_of([16]),
    batch_of([1]),
    batch_of([7, 9]),
]


def test_buckets_are_those_that_texts_of_the_model_reach_and_launches_bound():
    buckets = buckets_up_to(100)
    assert buckets[0][0] * buckets[0][1] == max(b * t for b, t in buckets) <= MAX_BUCKET_TOKENS
    assert {t for _, t in buckets} == {16, 32, 64, 128}
    assert {t for _, t in buckets_up_to(8192)} == {16, 32, 64, 128, 256, 512}
    assert (64, 64) in buckets
    assert (64, 128) not in buckets


def test_a_batch_goes_to_the_bucket_with_the_least_padding_or_to_none():
    graphs = CudaGraphs(lambda ids, mask: ids[:, :2].float(), "cpu", [(4, 32), (4, 16), (1, 32)], recorded)
    assert graphs.buckets == [(1, 32), (4, 16), (4, 32)]
    assert graphs.bucket_for(1, 7) == (1, 32)
    assert graphs.bucket_for(2, 7) == (4, 16)
    assert graphs.bucket_for(4, 17) == (4, 32)
    assert graphs.bucket_for(5, 1) is None
    assert graphs.bucket_for(1, 33) is None


@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
@pytest.mark.parametrize("role", ["query_encoder", "document_encoder"])
def test_vectors_in_a_bucket_equal_those_without_one(tiny_folders, role, pooling):
    eager = runtime_of(tiny_folders / role, pooling=pooling)
    graphs = CudaGraphs(eager._encode, "cpu", [(4, 16), (1, 16)], recorded)
    for ids, mask in [*BATCHES, *BATCHES]:  # twice: what a batch leaves in the buffers does no harm
        found = graphs.run(ids, mask, graphs.bucket_for(*ids.shape))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, eager(ids, mask), atol=1e-5)


def test_rows_that_only_fill_a_bucket_have_a_token_and_every_buffer_is_reused():
    seen = []

    def forward(ids, mask):
        seen.append((ids.data_ptr(), mask.clone()))
        return ids[:, :2].float()

    graphs = CudaGraphs(forward, "cpu", [(4, 16), (2, 16)], recorded)
    graphs.run(*batch_of([3, 2]), bucket=(4, 16))
    assert len({address for address, _ in seen}) == 1
    assert all((mask.sum(dim=1) > 0).all() for _, mask in seen)
    assert seen[-1][1].sum(dim=1).tolist() == [3, 2, 1, 1]


def test_what_cannot_be_captured_runs_eagerly_and_is_said(caplog):
    def refuse(forward, ids, mask):
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    with caplog.at_level(logging.WARNING):
        graphs = CudaGraphs(lambda ids, mask: ids, "cpu", [(1, 16)], refuse)
    assert graphs.failure == "operation not permitted when stream is capturing"
    assert graphs.bucket_for(1, 1) is None
    assert "runs eagerly: operation not permitted" in caplog.text


def test_the_runtime_replays_what_fits_and_counts_what_buckets_cost(tiny_folders):
    runtime = runtime_of(tiny_folders / "query_encoder")
    assert runtime.graphs is None
    runtime.graphs = CudaGraphs(runtime._encode, "cpu", [(2, 16)], recorded)
    runtime(*batch_of([5, 3]))
    runtime(*batch_of([5, 3, 1]))
    assert (runtime.counts.replayed, runtime.counts.eager) == (1, 1)
    assert runtime.counts.bucket_padding == 2 * 16 - 2 * 5


@needs_gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 5e-3), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("pooling", ["first", "last", "mean"])
@pytest.mark.parametrize("model_type", ["gte", "qwen3"])
def test_graphs_on_a_gpu_equal_the_eager_network(
    make_encoder, tmp_path, model_type, pooling, dtype, tolerance
):
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this release of transformers has no {model_type}")
    folder = make_encoder(tmp_path / model_type, model_type)
    options = {"device": "cuda", "pooling": pooling, "dtype": dtype}
    runtime, eager = runtime_of(folder, **options), runtime_of(folder, **options, graphs=False)
    assert runtime.graphs.failure is None
    for ids, mask in [*BATCHES, batch_of([64] * 64), batch_of([33, 2]), *BATCHES]:
        np.testing.assert_allclose(runtime(ids, mask), eager(ids, mask), atol=tolerance)
    assert runtime.counts.eager == 0
    runtime(*batch_of([64] * 65))
    assert runtime.counts.eager == 1


@needs_gpu
def test_graphs_of_compiled_layers_equal_the_eager_network(make_encoder, tmp_path):
    if "gte" not in CONFIG_MAPPING:
        pytest.skip("this release of transformers has no gte")
    folder = make_encoder(tmp_path / "gte", "gte")
    options = {"device": "cuda", "pooling": "first", "dtype": "bfloat16", "max_tokens": 16}
    runtime, eager = runtime_of(folder, **options, compiled=True), runtime_of(folder, **options, graphs=False)
    assert runtime.graphs.failure is None
    for ids, mask in BATCHES:
        np.testing.assert_allclose(runtime(ids, mask), eager(ids, mask), atol=2e-2)


def test_vectors_that_stay_on_the_device_outlive_the_next_replay(tiny_folders):
    runtime = runtime_of(tiny_folders / "document_encoder")
    graphs = CudaGraphs(runtime._encode, "cpu", buckets_up_to(16), capture=recorded)
    ids, mask = batch_of([5, 3, 1])
    bucket = graphs.bucket_for(*ids.shape)
    first = graphs.run_on_device(ids, mask, bucket)
    np.testing.assert_array_equal(first.numpy(), graphs.run(ids, mask, bucket))
    kept = first.numpy().copy()
    graphs.run_on_device(*batch_of([4, 4, 4]), bucket)
    np.testing.assert_array_equal(first.numpy(), kept)


def test_compiled_layers_give_the_same_vectors_in_any_shape(tiny_folders):
    # The capture alone: a program for the processor takes most of a minute, and GPU tests make those that are used.
    spec = EncoderSpec(pooling="first", order="normalize-then-slice", width=20)
    network = Checkpoint(tiny_folders / "query_encoder").load_network("float32")
    plain = PooledNetwork(network, spec)
    ids = torch.ones((2, 48), dtype=torch.int64)
    compiled = with_compiled_layers(plain, (ids, torch.ones_like(ids)), backend="eager")
    assert compiled is not plain
    for batch in (batch_of([5, 3, 1]), batch_of([16])):
        ids, mask = map(torch.from_numpy, batch)
        with torch.inference_mode():
            torch.testing.assert_close(compiled(ids, mask), plain(ids, mask), atol=1e-5, rtol=0)
            assert not any(layer._compiled_call_impl for layer in network.layers)


def test_a_compiler_that_fails_is_done_without(tiny_folders, monkeypatch, caplog):
    def fail(*arguments, **options):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer, **_: setattr(layer, "forward", fail))
    spec = EncoderSpec(pooling="first", order="normalize-then-slice", width=20)
    plain = PooledNetwork(Checkpoint(tiny_folders / "query_encoder").load_network("float32"), spec)
    with caplog.at_level(logging.WARNING):
        assert with_compiled_layers(plain, (torch.ones((1, 3), dtype=torch.int64),) * 2) is plain
    assert "no compiler here" in caplog.text


def test_a_network_without_a_list_of_layers_is_done_without(caplog):
    config = CONFIG_MAPPING["distilbert"](vocab_size=9, dim=32, n_heads=2, n_layers=1, hidden_dim=16)
    spec = EncoderSpec(pooling="first", order="normalize-then-slice", width=20)
    plain = PooledNetwork(AutoModel.from_config(config).eval(), spec)
    with caplog.at_level(logging.WARNING):
        assert with_compiled_layers(plain, (torch.ones((1, 3), dtype=torch.int64),) * 2) is plain
    assert "DistilBertModel has no list of layers" in caplog.text
