"""Token ids to the ten best documents on a GPU: queries per second by query network, asymmetric and symmetric.

The query network of the paper (gte, 305M) and its document networks as query encoders (qwen3, 4B; 8B in the full size),
at true size with random weights in bfloat16, each before the exact scan of the same vectors. Ids come from the host and
hits return there; vectors stay on the GPU. "One graph" has network, scan and the copies of ids and hits in one CUDA graph. The peer is what one writes with transformers and torch: the whole network
eagerly, and a float16 product and selection, which is not exact. Before anything is timed, hits are compared with all
products of vectors that the network gives eagerly (see `hits`).
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from care_accel import _native

torch = pytest.importorskip("torch", reason="the peer torch is not installed")
from bench.gpu import hits  # noqa: E402
from bench.gpu.test_cuda_scan import index_of, index_of_peers, pieces  # noqa: E402
from bench.gpu.test_gpu_encoder import network_of, spec_of, whole_network  # noqa: E402
from care_accel.encoding.last_layer import PooledNetwork  # noqa: E402
from care_accel.encoding.runtimes.compiled import with_compiled_layers  # noqa: E402
from care_accel.encoding.runtimes.cuda_graphs import CudaGraphs  # noqa: E402
from care_accel.encoding.runtimes.pytorch import PyTorchRuntime  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (_native.CUDA and torch.cuda.is_available()), reason="needs a GPU and a build with CARE_CUDA=ON"
)

ROWS = {"smoke": 20_000, "default": 200_000, "full": 1_000_000}
QUERIES = (1, 32, 256)
TOKENS, WIDTH, K = 16, 768, 10
A_BATCH = 64  # texts that are encoded together, as an Encoder does
SECONDS = 0.15
# Runs of a network in bfloat16 agree to a cosine of 0.999 (`test_gpu_encoder`), which moves the product with a random
# vector of this width by some 0.0016; the ten best products of a million are between 0.15 and 0.18.
WITHIN = 0.01
OURS = "care_accel, gte 305M"
PEER = "transformers and torch float16, gte 305M"
ENGINES = {
    OURS: "gte, 305M",
    "care_accel, gte 305M, compiled layers": "gte, 305M",
    "care_accel, gte 305M, one graph": "gte, 305M",
    "care_accel, gte 305M, one graph of compiled layers": "gte, 305M",
    PEER: "gte, 305M",
    "care_accel, qwen3 4B": "qwen3, 4B",
    "care_accel, qwen3 8B": "qwen3, 8B",
}


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    metafunc.parametrize("queries", QUERIES[:1] if size == "smoke" else QUERIES)
    names = [name for name in ENGINES if "qwen3" not in name]
    if size != "smoke":
        names += [name for name in ENGINES if "qwen3" in name and (size == "full" or "8B" not in name)]
    metafunc.parametrize("engine", names)


@functools.cache
def runtime_of(name, compiled=False):
    runtime = PyTorchRuntime(network_of(name), spec_of(name, WIDTH), compiled=compiled)
    assert runtime.graphs.failure is None, runtime.graphs.failure
    return runtime


def ours(name, rows, compiled=False):
    index, runtime = index_of(rows, WIDTH), runtime_of(name, compiled)

    def search(ids):
        mask = np.ones_like(ids)
        batches = range(0, len(ids), A_BATCH)
        vectors = torch.cat([runtime.on_device(ids[i : i + A_BATCH], mask[i : i + A_BATCH]) for i in batches])
        return index.search_on_device(vectors, k=K)[1].cpu()

    return search


def in_one_graph(name, rows, compiled):
    """Network and scan as one graph: ids are copied to it and hits from it, once each."""
    index = index_of(rows, WIDTH)
    encode = PooledNetwork(network_of(name), spec_of(name, WIDTH)).eval()
    if compiled:
        ids = torch.ones((2, 48), dtype=torch.int64, device="cuda")
        encode = with_compiled_layers(encode, (ids, torch.ones_like(ids)))

    def to_hits(ids, mask):
        return hits.joined(*index.search_on_device(encode(ids, mask), k=K))

    graphs = CudaGraphs(to_hits, "cuda", [(batch, TOKENS) for batch in (A_BATCH, 32, 1)])
    assert graphs.failure is None, graphs.failure

    def search(ids):
        found = []
        for start in range(0, len(ids), A_BATCH):
            batch = ids[start : start + A_BATCH]
            found.append(graphs.run(batch, np.ones_like(batch), graphs.bucket_for(*batch.shape)))
        return torch.from_numpy(hits.parted(np.concatenate(found))[1])

    return search


def peer(name, rows):
    stored = index_of_peers(rows, WIDTH, "float16")
    encode = whole_network(name, width=WIDTH, stay=True)

    def search(ids):
        return torch.topk(encode(ids, np.ones_like(ids)).half() @ stored.T, K).indices.cpu()

    return search


def test_token_ids_to_hits(measure, cached, bench_size, engine, queries):
    name, rows = ENGINES[engine], ROWS[bench_size]
    if bench_size == "smoke":
        name = "gte, small"
    if engine == PEER:
        search = peer(name, rows)
    elif "one graph" in engine:
        search = cached((name, rows), engine, lambda: in_one_graph(name, rows, "compiled" in engine))
    else:
        search = ours(name, rows, "compiled" in engine)
    random = np.random.default_rng(0)
    batches = [random.integers(5, 900, (queries, TOKENS)) for _ in range(8)]
    plainly = whole_network(name, width=WIDTH, stay=True)(batches[0], np.ones_like(batches[0]))
    hits.check(search(batches[0]), plainly, pieces(rows, WIDTH), WITHIN)
    found = measure(
        search,
        [(ids,) for ids in batches],
        group=f"GPU: {queries} x {TOKENS} token ids to the top {K} of {rows:,} x {WIDTH}",
        name=engine,
        ours=engine == OURS,
        parameters={
            "family": "asymmetric" if name.startswith("gte") else "symmetric",
            "runtime": "transformers" if engine == PEER else "care_accel",
            "network": name,
            "vectors": rows,
            "width": WIDTH,
            "queries": queries,
            "tokens": TOKENS,
            "k": K,
        },
        seconds=SECONDS,
        exact=engine != PEER,
    )
    assert found.shape == (queries, K)
    if not measure.disabled:
        measure.note(rate=queries / measure.benchmark.stats.stats.median)
