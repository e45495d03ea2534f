"""Token ids to vectors on a GPU, in bfloat16: CUDA graphs against eager execution and torch.compile.

Ours twice: as captured from PyTorch's own kernels, and with layers that PyTorch's compiler fused.

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

from bench.gpu import peers  # noqa: E402
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
        {**_QWEN3, "num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 1000},
    ),
}
SMALL = {"gte, 305M": "gte, small", "qwen3, 4B": "qwen3, small"}


@functools.lru_cache(maxsize=4)
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


def spec_of(name, width=256):
    pooling = "last" if name.startswith("qwen3") else "first"
    return EncoderSpec(
        pooling=pooling,
        order="normalize-then-slice",
        width=width,
        dtype="bfloat16",
        device="cuda",
        max_tokens=TOKENS,
    )


def graphs(name, compiled=False):
    runtime = PyTorchRuntime(network_of(name), spec_of(name), compiled=compiled)
    assert runtime.graphs.failure is None, runtime.graphs.failure
    return runtime


def eager(name):
    return PyTorchRuntime(network_of(name), spec_of(name), graphs=False)


def whole_network(name, wrap=None, *, width=256, stay=False):
    network, spec = network_of(name), spec_of(name, width)

    def vectors(ids, mask):
        hidden = network(input_ids=ids, attention_mask=mask).last_hidden_state
        return project(pool(hidden, mask, spec.pooling), spec.width, spec.order)

    function = wrap(vectors) if wrap else vectors

    def encode(ids, mask):
        with torch.inference_mode():
            found = function(torch.from_numpy(ids).cuda(), torch.from_numpy(mask).cuda())
            return found if stay else found.cpu().numpy()

    return encode


def reduce_overhead(function):
    torch.compiler.reset()  # every case has its own compilation, for its own shapes
    return torch.compile(function, mode="reduce-overhead", dynamic=False)


def onnxruntime(name):
    return peers.onnxruntime(network_of(name), spec_of(name), "CUDAExecutionProvider", "float16")


OURS = "care_accel, CUDA graphs"
COMPILED = "care_accel, CUDA graphs of compiled layers"
ENGINES = {
    OURS: graphs,
    COMPILED: lambda name: graphs(name, compiled=True),
    "care_accel, eager": eager,
    "transformers, eager": whole_network,
    "torch.compile, reduce-overhead": lambda name: whole_network(name, reduce_overhead),
    "ONNX Runtime, CUDA, float16": onnxruntime,
}
SECONDS = 0.15


def pytest_generate_tests(metafunc):
    metafunc.parametrize("queries", QUERIES)
    if metafunc.function is test_query_network_on_a_gpu:
        metafunc.parametrize("engine", ENGINES)
    else:
        full = metafunc.config.getoption("--bench-size") == "full"
        metafunc.parametrize("engine", ["gte, 305M", "qwen3, 4B", "qwen3, 8B"][: None if full else -1])


def run(measure, encode, network, queries, **row):
    ids = np.random.default_rng(0).integers(5, 900, (queries, TOKENS))
    mask = np.ones_like(ids)
    layers = sum(weights.numel() for weights in network_of(network).layers.parameters())
    found = measure(
        encode,
        [(ids, mask)],
        parameters={"network": network, "queries": queries, "tokens": TOKENS},
        limit={"GPU read bandwidth": 2 * layers, "GPU bfloat16 rate": 2 * layers * ids.size},
        seconds=SECONDS,
        **row,
    )
    exact = eager(network)(ids, mask)
    cosines = (found * exact).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.999


def sized(name, bench_size):
    return SMALL.get(name, name) if bench_size == "smoke" else name


def test_query_network_on_a_gpu(measure, cached, bench_size, engine, queries):
    name = sized("gte, 305M", bench_size)
    run(
        measure,
        cached(name, engine, lambda: ENGINES[engine](name)),
        name,
        queries,
        group=f"GPU: gte 305M in bfloat16, {queries} x {TOKENS} tokens",
        name=engine,
        ours=engine == OURS,
    )


def test_asymmetry_on_a_gpu(measure, cached, bench_size, engine, queries):
    name = sized(engine, bench_size)
    run(
        measure,
        cached("asymmetry", engine, lambda: graphs(name)),
        name,
        queries,
        group=f"GPU: {queries} x {TOKENS} tokens in bfloat16, CUDA graphs, by query network",
        name=engine,
        ours=engine == "gte, 305M",
    )
