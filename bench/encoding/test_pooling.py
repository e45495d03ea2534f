"""Hidden states to vectors: the package's pooling against plain PyTorch, torch.compile and sentence-transformers' modules.

On a GPU that is the fused kernel; a round is several calls in a row, and "in a CUDA graph" is their time without
launches. On a CPU it is plain PyTorch. Inputs rotate over enough sets of states to exceed the last-level cache, within
bounds; rows whose data fit in the cache are labelled. The limit is one pass over the states of all tokens that pooling
needs.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from bench.harness.machine import last_level_cache

torch = pytest.importorskip("torch")

from care_accel.kernels import embed, pool, project  # noqa: E402

ON_GPU = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a GPU")
ORDER = "normalize-then-slice"
WIDTH = 768

# texts, tokens, hidden size; float32 on the CPU, bfloat16 on a GPU
CPU_CASES = {
    "smoke": [(4, 16, 64)],
    "default": [(1, 16, 768), (64, 64, 768)],
    "full": [(1, 16, 768), (64, 64, 768), (512, 64, 768)],
}
GPU_CASES = {
    "smoke": [(4, 16, 64)],
    "default": [(1, 16, 768), (1024, 128, 768)],
    "full": [
        (1, 16, 768),
        (32, 16, 768),
        (32, 512, 768),
        (1024, 128, 768),
        (4096, 64, 768),
        (256, 512, 4096),
    ],
}
POOLINGS = {
    "cpu": {"smoke": ["mean"], "default": ["first", "mean"], "full": ["first", "last", "mean"]},
    "cuda": {"smoke": ["mean"], "default": ["first", "last", "mean"], "full": ["first", "last", "mean"]},
}
IN_A_ROW = {"cpu": 1, "cuda": 20}
# Bounds of the rotating states: number of sets, and total bytes.
MAX_SETS = 80
MAX_BYTES = {"cpu": 2**28, "cuda": 2**34}


def plain(hidden, mask, pooling, order, width):
    return project(pool(hidden, mask, pooling), width, order)


def compiled(pooling):
    torch.compiler.reset()  # every case has its own compilation, for its own shapes
    return torch.compile(plain, dynamic=False)


def sentence_transformers(pooling):
    """Return sentence-transformers' pooling and normalising, cut as its `truncate_dim` does."""
    reason = "the peer sentence-transformers is not installed (extra train)"
    base = pytest.importorskip("sentence_transformers.base.modules", reason=reason)
    modules = pytest.importorskip("sentence_transformers.sentence_transformer.modules", reason=reason)
    mode = {"first": "cls", "last": "lasttoken", "mean": "mean"}[pooling]
    made = {}

    def run(hidden, mask, pooling, order, width):
        size = hidden.shape[2]
        if size not in made:
            made[size] = modules.Pooling(size, pooling_mode=mode), base.Normalize()
        pooled, normalize = made[size]
        features = normalize(pooled({"token_embeddings": hidden, "attention_mask": mask}))
        return features["sentence_embedding"][:, :width]

    return run


OURS = "care_accel"
EAGER, ST = "PyTorch eager", "sentence-transformers' modules"
ENGINES = {
    OURS: lambda pooling: embed,
    EAGER: lambda pooling: plain,
    "torch.compile": compiled,
    ST: sentence_transformers,
}
GRAPHED = {f"{name}, in a CUDA graph": ENGINES[name] for name in (OURS, EAGER)}
# Off the GPU ours is plain PyTorch; on it sentence-transformers computes means in bfloat16: not the same task.
AT = {"cpu": [OURS, "torch.compile", ST], "cuda": [OURS, EAGER, "torch.compile", *GRAPHED]}


def pytest_generate_tests(metafunc):
    size = metafunc.config.getoption("--bench-size")
    device = "cuda" if metafunc.function is test_pooling_on_a_gpu else "cpu"
    cases = (GPU_CASES if device == "cuda" else CPU_CASES)[size]
    metafunc.parametrize("case", cases, ids=lambda c: "x".join(map(str, c)))
    metafunc.parametrize("pooling", POOLINGS[device][size])
    metafunc.parametrize("engine", AT[device])


class Turns(NamedTuple):
    """Rotating sets of hidden states.

    Parameters
    ----------
    rounds : list of list of tensor
        The states of each round's calls.
    mask : tensor
    moved : int
        Bytes that one call has to read and write.
    in_cache : bool
        Whether the data of all rounds fit into the last-level cache.
    """

    rounds: list
    mask: object
    moved: int
    in_cache: bool


def turns(case, pooling, device):
    """Make states, as many as it takes to read twice what the last cache holds."""
    texts, tokens, size = case
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    mask = torch.ones(texts, tokens, dtype=torch.int64, device=device)
    value = torch.finfo(dtype).bits // 8
    read = texts * (tokens if pooling == "mean" else 1) * size * value
    cache = torch.cuda.get_device_properties(0).L2_cache_size if device == "cuda" else last_level_cache()
    sets = min(-(-2 * cache // read), MAX_BYTES[device] // (texts * tokens * size * value), MAX_SETS)
    calls = IN_A_ROW[device]
    hidden = [torch.randn(*case, device=device, dtype=dtype) for _ in range(max(1, sets))]
    rounds = [
        [hidden[(start + i) % len(hidden)] for i in range(calls)] for start in range(0, len(hidden), calls)
    ]
    moved = read + mask.nbytes + 4 * texts * min(WIDTH, size)
    return Turns(rounds, mask, moved, len(hidden) * read <= cache)


def several(function, given, pooling, width, device):
    """Return what calls a function for all states of a round."""

    def run(states):
        for hidden in states:
            found = function(hidden, given.mask, pooling, ORDER, width)
        if device == "cuda":
            torch.cuda.synchronize()
        return found

    return run


def graphed(run, rounds):
    """Return the same with each round's launches recorded in one CUDA graph."""

    def record(states):
        for _ in range(3):
            run(states)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = run(states)
        return graph, found

    recorded = {id(states): record(states) for states in rounds}

    def replay(states):
        graph, found = recorded[id(states)]
        graph.replay()
        torch.cuda.synchronize()
        return found

    return replay


def check(measure, cached, engine, case, pooling, device):
    width, calls = min(WIDTH, case[2]), IN_A_ROW[device]
    key = case, pooling, device

    def make():
        function = (ENGINES | GRAPHED)[engine](pooling)
        if engine in GRAPHED:
            return graphed(
                several(function, given, pooling, width, "cpu"), given.rounds
            )  # waits after a replay
        return several(function, given, pooling, width, device)

    with torch.inference_mode():
        given = cached(key, "states", lambda: turns(*key))
        run = cached(key, engine, make)
        first = given.rounds[0]
        expected = plain(first[-1].double(), given.mask, pooling, ORDER, width)
        torch.testing.assert_close(run(first), expected, atol=1e-5, rtol=0, check_dtype=False)
        measure(
            run,
            [(states,) for states in given.rounds],
            group=f"{pooling} of {' x '.join(map(str, case))} on {'a GPU' if device == 'cuda' else 'the CPU'}",
            name=engine,
            ours=engine == OURS,
            parameters=dict(
                zip(("texts", "tokens", "hidden"), case, strict=True), pooling=pooling, width=width, device=device
            ),
            limit={
                "GPU copy bandwidth" if device == "cuda" else "read bandwidth": calls * given.moved
            },
            calls=calls,
            in_cache=given.in_cache,
        )  # fmt: skip


def test_pooling(measure, cached, engine, case, pooling):
    check(measure, cached, engine, case, pooling, "cpu")


@needs_gpu
def test_pooling_on_a_gpu(measure, cached, engine, case, pooling):
    check(measure, cached, engine, case, pooling, "cuda")
