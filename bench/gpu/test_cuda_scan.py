"""Exact top-k search on a GPU against torch's matrix product and selection, everything in the GPU's memory.

torch's float32 product (TF32 off) is exact but for rounding. float16 is what one would use instead, and is not exact;
int8 (`torch._int_mm`) is for information. The limit of ours: one read of all codes at the read bandwidth, measured in the
same run. From 65 queries on ours is also measured with at most 64 and 128 columns of queries for one read of the codes, as
it was before and where shared memory is smaller. A round is several searches in a row, so that it measures the GPU and not how fast the processor hands it work.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from care_accel import ExactIndex, _native
from care_accel.index.parts import Part

torch = pytest.importorskip("torch", reason="the peer torch is not installed")
from bench.gpu import peers  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (_native.CUDA and torch.cuda.is_available()), reason="needs a GPU and a build with CARE_CUDA=ON"
)

# vectors, width, queries at a time
CASES = {
    "smoke": [(20_000, 256, 1), (20_000, 256, 256)],
    "default": [(rows, 768, queries) for rows in (200_000, 1_000_000) for queries in (1, 32)],
    "full": [
        *((100_000, 768, queries) for queries in (1, 8, 32, 256)),
        *((1_000_000, 768, queries) for queries in (1, 8, 32, 64, 128, 256)),
        *((10_000_000, 768, queries) for queries in (1, 32)),
    ],
}
K = 10
IN_A_ROW = 10
BATCHES = 3  # of queries, in rotation
SECONDS = 0.08  # a block: hundreds of searches of a million vectors
PIECE = 200_000  # vectors that are made at a time
ALL_PEERS = 2_000_000  # vectors; above, SMALL_ONLY do not fit into memory together with the other engines
SMALL_ONLY = {"torch float32", "torch int8", "faiss GPU flat", "cuVS brute force"}


def pieces(rows, width):
    """Yield the same random unit vectors every time, made on the GPU: the processor takes a minute for so many."""
    generator = torch.Generator("cuda").manual_seed(0)
    for start in range(0, rows, PIECE):
        piece = torch.randn(min(PIECE, rows - start), width, device="cuda", generator=generator)
        yield start, torch.nn.functional.normalize(piece)


@functools.lru_cache(maxsize=1)
def index_of(rows, width):
    index_of_peers.cache_clear()  # another case's
    torch.cuda.empty_cache()
    index = ExactIndex(width, device="cuda")
    index._reserve(rows)
    for _, piece in pieces(rows, width):
        index.add(piece.cpu().numpy())
    return index


@functools.cache
def index_of_peers(rows, width, dtype):
    """Return the same vectors as a tensor on the GPU."""
    stored = torch.empty((rows, width), dtype=getattr(torch, dtype), device="cuda")
    for start, piece in pieces(rows, width):
        # Values of a unit vector of that width are below half: one scale for all.
        stored[start : start + PIECE] = (piece * 254).clamp(-127, 127) if dtype == "int8" else piece
    return stored


@functools.lru_cache(maxsize=1)
def expected_of(rows, width, count):
    """Return the queries of a case, and what the processor finds for the first of them."""
    generator = torch.Generator("cuda").manual_seed(1)
    batches = torch.randn(BATCHES, count, width, device="cuda", generator=generator)
    batches = list(torch.nn.functional.normalize(batches, dim=2))
    return batches, on_the_cpu(index_of(rows, width)).search(batches[0].cpu().numpy(), k=K)[1]


def on_the_cpu(index):
    """Return the same index without its GPU: vectors and codes are shared."""
    other = ExactIndex(index.width)
    other._parts = tuple(Part(part.stored, part.codes) for part in index._parts)
    return other


def ours(rows, width, columns=0):
    index = index_of(rows, width)

    def search(queries):
        for part in index._parts:
            part.scan.max_columns = columns
        return index.search_on_device(queries, k=K)[1]

    return search


def product(rows, width, dtype):
    def search(queries):
        stored = index_of_peers(rows, width, dtype)
        return torch.topk(queries.to(stored.dtype) @ stored.T, K).indices

    return search


def int8(rows, width):
    def search(queries):
        stored = index_of_peers(rows, width, "int8")
        codes = (queries * 127 / queries.abs().max()).to(torch.int8)
        padded = torch.nn.functional.pad(codes, (0, 0, 0, max(0, 32 - len(codes))))  # what _int_mm takes
        return torch.topk(torch._int_mm(padded, stored.T)[: len(codes)].float(), K).indices

    return search


OURS = "care_accel"
# Ours with so many columns of queries at once, at most.
LIMITED = {f"{OURS}, {columns} columns at once": columns for columns in (64, 128)}
ENGINES = {
    OURS: ours,
    **{name: functools.partial(ours, columns=columns) for name, columns in LIMITED.items()},
    "torch float32": lambda rows, width: product(rows, width, "float32"),
    "torch float16": lambda rows, width: product(rows, width, "float16"),
    "torch int8": int8,
    "faiss GPU flat": lambda rows, width: peers.faiss_flat(index_of(rows, width).vectors, K),
    "cuVS brute force": lambda rows, width: peers.cuvs_brute_force(index_of_peers(rows, width, "float32"), K),
}
NOT_EXACT = {"torch float16": 2, "torch int8": 1}


def limit_of(engine, rows, width, count):
    """Return the bytes that all searches of a round read; of ours also their int8 products, which many queries take longer for."""
    ours = engine in (OURS, *LIMITED)
    limit = {"GPU read bandwidth": IN_A_ROW * NOT_EXACT.get(engine, 1 if ours else 4) * rows * width}
    if ours and count > 32:
        limit["GPU int8 rate"] = IN_A_ROW * rows * width * count
    return limit


def pytest_generate_tests(metafunc):
    cases = CASES[metafunc.config.getoption("--bench-size")]
    metafunc.parametrize("case", cases, ids=lambda c: "x".join(map(str, c)))
    metafunc.parametrize("engine", ENGINES)


def test_search_on_a_gpu(measure, cached, engine, case):
    rows, width, count = case
    if rows > ALL_PEERS and engine in SMALL_ONLY:
        pytest.skip(f"{engine} does not fit into memory together with the other engines and {rows:,} vectors")
    if count <= LIMITED.get(engine, 0):
        pytest.skip("so many columns are what it takes anyway")
    # First: another case's engines are let go before this one's vectors are made.
    search = cached((rows, width), engine, lambda: ENGINES[engine](rows, width))
    batches, expected = expected_of(rows, width, count)

    def several(queries):
        for _ in range(IN_A_ROW):
            found = search(queries)
        torch.cuda.synchronize()
        return found

    first = search(batches[0]).cpu().numpy()
    measure(
        several,
        [(queries,) for queries in batches],
        group=f"GPU: top {K} of {rows:,} x {width}, {count} {'query' if count == 1 else 'queries'} at a time",
        name=engine,
        ours=engine == OURS,
        parameters={"vectors": rows, "width": width, "queries": count, "k": K, "in_a_row": IN_A_ROW},
        limit=limit_of(engine, rows, width, count),
        calls=IN_A_ROW,
        seconds=SECONDS,
        exact=engine not in NOT_EXACT,
    )
    if engine in (OURS, *LIMITED):
        np.testing.assert_array_equal(first, expected)
    else:
        measure.note(
            recall=float(np.mean([len({*a} & {*b}) / K for a, b in zip(first, expected, strict=True)]))
        )
