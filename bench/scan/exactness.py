"""Compare searches with float64 brute force over every kind of vectors of the benchmark.

``python -m bench.scan.exactness --rows 100000 --queries 10000``

Every score is computed by NumPy in float64. What lies within the rounding of the k-th best is scored once more in the
order that csrc/include/care/score.hpp states; ids must be the same then, and scores to the last bit.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

import numpy as np

from bench.scan.test_scan import KINDS, embeddings
from care_accel import ExactIndex

CHUNK = 200


def score(vectors, query):
    """Return the scores of some vectors in the documented order of additions."""
    width = -(-vectors.shape[1] // 8) * 8
    products = np.zeros((len(vectors), width))
    products[:, : vectors.shape[1]] = vectors.astype(np.float64) * query.astype(np.float64)
    lanes = np.zeros((len(vectors), 8))
    for start in range(0, width, 8):
        lanes += products[:, start : start + 8]
    a = lanes.T
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))


def differences(vectors, queries, k):
    """Return how many queries have another result than brute force, and the mean number rescored."""
    index = ExactIndex(vectors.shape[1])
    index.add(vectors)
    wide, longest = vectors.astype(np.float64), float(np.linalg.norm(vectors, axis=1).max())
    wrong, rescored = 0, 0
    for start in range(0, len(queries), CHUNK):
        part = queries[start : start + CHUNK]
        # One, few and many queries take different code paths.
        sizes = [1, 3, 8, 20, CHUNK - 32]
        found = [
            index.search_in_float64(some, k)
            for some in np.split(part, np.minimum(np.cumsum(sizes), len(part))[:-1])
            if len(some)
        ]
        scores, ids, counts = (np.concatenate(column) for column in zip(*found, strict=True))
        rescored += int(counts.sum())
        products = part.astype(np.float64) @ wide.T
        least = np.partition(products, -k, axis=1)[:, -k]
        for q, query in enumerate(part):
            slack = vectors.shape[1] * 2.0**-52 * longest * float(np.linalg.norm(query))
            near = np.flatnonzero(products[q] >= least[q] - slack)
            exact = score(vectors[near], query)
            best = np.lexsort((near, -exact))[:k]
            wrong += not (np.array_equal(ids[q], near[best]) and np.array_equal(scores[q], exact[best]))
    return wrong, rescored / len(queries)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()
    total = 0
    for kind in [*KINDS, "embeddings"]:
        started = time.monotonic()
        if kind == "embeddings":
            vectors, queries = embeddings(options.rows, options.queries)
        else:
            vectors = KINDS[kind](np.random.default_rng(0), options.rows, options.width)
            queries = KINDS[kind](np.random.default_rng(1), options.queries, options.width)
        wrong, rescored = differences(np.ascontiguousarray(vectors), np.ascontiguousarray(queries), options.k)
        total += wrong
        print(
            f"{kind}: {len(queries):,} queries, {len(vectors):,} x {vectors.shape[1]}: {wrong} differences, "
            f"{rescored:.1f} rescored a query, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    return 1 if total else 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
