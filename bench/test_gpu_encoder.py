"""Token ids to vectors on a GPU, in bfloat16: CUDA graphs beside the same eagerly and torch.compile.

The query network of the paper at true size (gte, 305M parameters, random weights), for one and 32 queries of 16
tokens, and in the full size the paper's document networks (qwen3, 4B and 8B) as query encoders: what the asymmetry
saves. Ids come from the host and vectors return there. The limit is the weights of all layers at the read bandwidth, or
their operations at the rate of a large matrix product, whichever takes longer, both measured in the same run.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from care_accel.encoding import EncoderSpec  # noqa: E402
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime  # noqa: E402
from care_accel.kernels import pool, project  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TOKENS = 16
QUERIES = (1, 32)
_QWEN3 = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
NETWORKS = {
    "gte, 305M": ("gte", {"vocab_size": 250048}),
    "qwen3, 4B": ("qwen3", {**_QWEN3, "hidden_size": 2560, "intermediate_size": 9728}),
    "qwen3, 8B": ("qwen3", {**_QWEN3, "hidden_size": 4096, "intermediate_size": 12288}),
    "gte, small": ("gte", {"vocab_size": 1000, "num_hidden_layers": 2}),
    "qwen3, small": (
        "qwen3",
        {**_QWEN3, "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512},
    ),
}
SMALL = {"gte, 305M": "gte, small", "qwen3, 4B": "qwen3, small"}


@functools.lru_cache(maxsize=1)
def network_of(name):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model_type, values = NETWORKS[name]
    if model_type not in transformers.CONFIG_MAPPING:
        pytest.skip(
            f"transformers {transformers.__version__} has no {model_type}; 5.23 has: not measured here"
        )
    torch.cuda.empty_cache()
    torch.manual_seed(0)
    with torch.device("cuda"):
        config = transformers.CONFIG_MAPPING[model_type](**values)
        return transformers.AutoModel.from_config(config, dtype=torch.bfloat16).eval()


def spec_of(name):
    pooling = "last" if name.startswith("qwen3") else "first"
    return EncoderSpec(
        pooling=pooling,
        order="normalize-then-slice",
        width=256,
        dtype="bfloat16",
        device="cuda",
        max_tokens=TOKENS,
    )


def graphs(name):
    runtime = PyTorchRuntime(network_of(name), spec_of(name))
    assert runtime.graphs.failure is None, runtime.graphs.failure
    return runtime


def eager(name):
    return PyTorchRuntime(network_of(name), spec_of(name), graphs=False)


def whole_network(name, wrap=None):
    network, spec = network_of(name), spec_of(name)

    def vectors(ids, mask):
        hidden = network(input_ids=ids, attention_mask=mask).last_hidden_state
        return project(pool(hidden, mask, spec.pooling), spec.width, spec.order)

    function = wrap(vectors) if wrap else vectors

    def encode(ids, mask):
        with torch.inference_mode():
            return function(torch.from_numpy(ids).cuda(), torch.from_numpy(mask).cuda()).cpu().numpy()

    return encode


def reduce_overhead(function):
    torch.compiler.reset()  # every case has its own compilation, for its own shapes
    return torch.compile(function, mode="reduce-overhead", dynamic=False)


ENGINES = {
    "care_accel, CUDA graphs": graphs,
    "care_accel, eager": eager,
    "transformers, eager": whole_network,
    "torch.compile, reduce-overhead": lambda name: whole_network(name, reduce_overhead),
}


def run(benchmark, bench_size, name, engine, queries, limits):
    name = SMALL.get(name, name) if bench_size == "smoke" else name
    encode = ENGINES[engine](name)
    ids = np.random.default_rng(0).integers(5, 900, (queries, TOKENS))
    mask = np.ones_like(ids)
    found = benchmark.pedantic(lambda: encode(ids, mask), rounds=200, warmup_rounds=20)
    exact = eager(name)(ids, mask)
    cosines = (found * exact).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.999
    layers = sum(weights.numel() for weights in network_of(name).layers.parameters())
    read_bandwidth, matmul_rate = limits
    reading, computing = 2 * layers / read_bandwidth, 2 * layers * ids.size / matmul_rate
    if reading >= computing:
        benchmark.extra_info["share_of_limit_bytes"] = reading
    else:
        benchmark.extra_info["share_of_limit_flops"] = computing


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("queries", QUERIES)
def test_query_network_on_a_gpu(benchmark, bench_size, engine, queries, gpu_read_bandwidth, gpu_matmul_rate):
    benchmark.group = f"GPU: gte 305M in bfloat16, {queries} x {TOKENS} tokens"
    benchmark.extra_info |= {"name": engine, "ours": engine == "care_accel, CUDA graphs"}
    run(benchmark, bench_size, "gte, 305M", engine, queries, (gpu_read_bandwidth, gpu_matmul_rate))


@pytest.mark.parametrize("name", ["gte, 305M", "qwen3, 4B", "qwen3, 8B"])
@pytest.mark.parametrize("queries", QUERIES)
def test_asymmetry_on_a_gpu(benchmark, bench_size, name, queries, gpu_read_bandwidth, gpu_matmul_rate):
    if name == "qwen3, 8B" and bench_size != "full":
        pytest.skip("in the full size only")
    benchmark.group = f"GPU: {queries} x {TOKENS} tokens in bfloat16, CUDA graphs, by query network"
    benchmark.extra_info |= {"name": name, "ours": name == "gte, 305M"}
    limits = (gpu_read_bandwidth, gpu_matmul_rate)
    run(benchmark, bench_size, name, "care_accel, CUDA graphs", queries, limits)
