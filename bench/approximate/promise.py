"""How often an approximate index misses the recall that it was asked for: builds of several kinds, sizes, k and recalls.

Each build has queries of its own to tune and prove; then the recall is measured on others. A build may miss with a probability of 5 %.
Whether the exact scan is faster depends on the machine and on the size; so each build also says what it chose, and with ``--never-exact``
the fastest structure is kept even where the exact scan is faster, so that its promise is tested too.

    python -m bench.approximate.promise --never-exact

Real embeddings are made by care-mini, of all folders of ``$CARE_DATA``, which takes minutes; ``--index`` takes those of a saved index, and
``--queries`` a file of NumPy with queries.
"""

from __future__ import annotations

import argparse
from math import comb
from time import perf_counter
from unittest.mock import patch

import numpy as np

from bench.scan.test_scan import clustered, gaussian, power_law, real_embeddings, unit
from care_accel import ApproximateIndex, CareError, ExactIndex
from care_accel.index import parts
from care_accel.index.approximate.building import choosing, tuning
from care_accel.index.approximate.choice import ERROR
from care_accel.index.approximate.recall import lower_bound, recalls, upper_bound

KINDS = {
    "Gaussian": lambda rng, rows, width: unit(gaussian(rng, rows, width)),
    "clustered": clustered,
    "power law": power_law,
}
# kind, vectors, width, k, recall
CASES = [
    *(("Gaussian", 5_000, 16, k, recall) for k, recall in ((1, 0.95), (10, 0.99), (100, 0.99))),
    *(("clustered", 5_000, 64, k, recall) for k, recall in ((1, 0.999), (10, 0.95), (100, 0.99))),
    *(("power law", 5_000, 64, k, recall) for k, recall in ((1, 0.95), (10, 0.99), (100, 0.95))),
    *(("clustered", 30_000, 64, k, recall) for k, recall in ((1, 0.99), (10, 0.999), (100, 0.95))),
    *(("power law", 30_000, 64, k, recall) for k, recall in ((1, 0.99), (10, 0.95))),
    ("Gaussian", 20_000, 16, 10, 0.95),
    *(
        ("embeddings", 29_037, 384, k, recall)
        for k, recall in ((1, 0.95), (10, 0.99), (10, 0.95), (100, 0.95))
    ),
    ("embeddings", 10_000, 384, 10, 0.99),
]
TUNED = {0.95: 1_500, 0.99: 3_000, 0.999: 12_000}
MEASURED = 4_000
FAMILY = ("IVF{lists},Flat", "IVF{lists},SQ8", "HNSW32,SQ8")


def vectors_and_queries(kind, rows, width, tuned, seed, saved):
    if kind != "embeddings":
        made = KINDS[kind]
        return [
            made(np.random.default_rng((seed, i)), n, width) for i, n in enumerate((rows, tuned, MEASURED))
        ]
    documents, queries = saved or real_embeddings(50_000)
    rng = np.random.default_rng(seed)
    documents, queries = rng.permutation(documents)[:rows], rng.permutation(queries)
    tuned = min(tuned, len(queries) // 2)  # others are to be left
    return [np.ascontiguousarray(some) for some in (documents, queries[:tuned], queries[tuned:][:MEASURED])]


def never_exact(times, measured):
    def changed(searches, calls):
        exact, *others = times(searches, calls)
        measured.append(1e6 * exact)
        return [max(exact, 2 * max(others, default=0)) if len(calls[0]) == 1 else 0.0, *others]

    return changed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--never-exact", action="store_true")
    parser.add_argument("--first", type=int, default=0, help="leave out so many builds")
    parser.add_argument("--budget", default="60 s")
    parser.add_argument("--index", help="a saved index of real embeddings")
    parser.add_argument("--queries", help="a file of NumPy with their queries, [n, width]")
    options = parser.parse_args()
    if options.never_exact:
        tuning._TOO_SLOW = float("inf")
    saved = (
        (ExactIndex.load(options.index).vectors, np.load(options.queries, allow_pickle=False))
        if options.index
        else None
    )
    missed = proven = 0
    print(
        "| vectors | k | asked | chosen | proven: at least | recall on others (95 % interval) | us, exact us | built in s |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for seed, (kind, rows, width, k, recall) in list(enumerate(CASES))[options.first :]:
        vectors, tune, others = vectors_and_queries(kind, rows, width, TUNED[recall], seed, saved)
        begun = perf_counter()
        family = [name.format(lists=round(len(vectors) ** 0.5)) for name in FAMILY]
        what = f"{kind}, {len(vectors):,} x {vectors.shape[1]}"
        kept, measured = choosing.alternating_times, []
        try:
            with patch.object(
                choosing, "alternating_times", never_exact(kept, measured) if options.never_exact else kept
            ):
                index = ApproximateIndex.build(
                    vectors, recall, k, queries=tune, family=family, seed=seed, budget=options.budget
                )
        except CareError as refused:
            print(f"| {what} | {k} | {recall:g} | refused: {refused} | | | | |", flush=True)
            continue
        choice, seconds = index.choice, perf_counter() - begun
        setting = (
            "exact" if choice.is_exact else f"{choice.name}, {choice.value}, {choice.candidates} rescored"
        )
        low, found, times = "", "1", f"{choice.exact_us:.0f}"
        if not choice.is_exact:
            proven += 1
            exact = parts.search(index._state.parts, others, k, index.threads)[0]
            got = np.concatenate(
                [index.search_in_float64(others[i : i + 1], k)[0] for i in range(len(others))]
            )
            observed = recalls(got, exact)
            missed += observed.mean() < recall
            low = f"{choice.held_out.low:.5f}"
            bounds = f"{lower_bound(observed, ERROR / 2):.5f} to {upper_bound(observed, ERROR / 2):.5f}"
            found, times = (
                f"{observed.mean():.5f} ({bounds})",
                f"{choice.chosen_us:.0f}, {(measured or [choice.exact_us])[0]:.0f}",
            )
        print(
            f"| {what} | {k} | {recall:g} | {setting} | {low} | {found} | {times} | {seconds:.1f} |",
            flush=True,
        )
    allowed = sum(comb(proven, n) * ERROR**n * (1 - ERROR) ** (proven - n) for n in range(missed, proven + 1))
    print(
        f"\n{missed} of {proven} approximate indexes missed their recall on other queries; {ERROR * proven:.1f} are allowed on "
        f"average, and as many or more have a probability of {allowed:.2f} if the bound is just right"
    )


if __name__ == "__main__":
    main()
