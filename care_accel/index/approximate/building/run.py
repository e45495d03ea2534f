"""The build as a whole: answers queries exactly, tries the family, and chooses."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError
from care_accel.index import parts
from care_accel.index.approximate.building import questions
from care_accel.index.approximate.building.choosing import Chosen, choose, measure_limits
from care_accel.index.approximate.building.request import Request
from care_accel.index.approximate.building.tuning import Tuner, median_time
from care_accel.index.approximate.choice import EXACT, Choice, Tried
from care_accel.index.approximate.family import GPU_CODES, parse
from care_accel.index.approximate.finder import Finder
from care_accel.index.approximate.library import faiss_library
from care_accel.index.checks import Few
from care_accel.index.parts import Part
from care_accel.progress import progress_bar

log = logging.getLogger(__name__)

# An exact scan of fewer takes less time than a call of another library.
FEWEST = 500
# Shares of the budget that are kept for the choice: as much as four proofs take that are as slow as the exact scan, within these.
_PROOFS, _LEAST_KEPT, _MOST_KEPT = 4, 0.1, 0.4
# What the last step may take.
_STEP = 0.02
_FEWEST_TIMED = 20


def data_hash(base: Sequence[Part]) -> str:
    """Return the hash of all vectors, removed ones included."""
    state = hashlib.blake2b(digest_size=20)
    for part in base:
        state.update(np.ascontiguousarray(part.vectors).data.cast("B") if part.count else b"")
    state.update(str([sum(part.count for part in base), base[0].stored.shape[1]]).encode())
    return state.hexdigest()


def build(
    base: Sequence[Part], width: int, queries: NDArray[np.float32] | None, request: Request
) -> tuple[Choice, Finder | None]:
    """Return how it was chosen, and what finds candidates; None for the exact scan."""
    begun = perf_counter()
    faiss = faiss_library()
    vectors, ids = _alive(base)
    names = request.family
    kinds = [parse(name, len(vectors)) for name in names or ()]
    if request.gpu is not None and any(kind.links or kind.codes not in GPU_CODES for kind in kinds):
        raise CareError(
            f"family: on a GPU there are lists with {' or '.join(GPU_CODES)} only; remove the others"
        )
    rng, hashed = np.random.default_rng(request.seed), data_hash(base)
    about = "none were needed" if queries is None else f"{len(queries):,} given"

    def result(chosen: Chosen, tried: Sequence[Tried] = ()) -> tuple[Choice, Finder | None]:
        finder = chosen.finder
        choice = Choice(
            name=EXACT if finder is None else finder.structure.name,
            why=chosen.why,
            asked=request.recall,
            k=request.k,
            queries=about,
            vectors=len(vectors),
            width=width,
            faiss=str(faiss.__version__),
            data=hashed,
            seed=request.seed,
            value=0 if finder is None else finder.value,
            candidates=0 if finder is None else finder.candidates,
            held_out=chosen.held_out,
            attempts=chosen.attempts,
            seconds=perf_counter() - begun,
            tried=list(tried),
            exact_us=chosen.exact_us,
            chosen_us=chosen.chosen_us,
            least_share=chosen.least_share,
            least_alive=chosen.least_alive,
            subsets=chosen.subsets,
            exact_from=chosen.exact_from,
            options={"memory": request.memory, "budget": request.budget, "family": names and list(names)},
        )
        return choice, finder

    if len(vectors) < max(FEWEST, 2 * request.k):
        return result(
            Chosen(None, f"{len(vectors):,} vectors are too few for anything but an exact scan", 0.0)
        )
    largest = float(max(vectors.max(), -vectors.min()))
    # faiss squares differences of vectors in float32. Where one is infinite, it ends the process.
    if width * (2 * largest) ** 2 > float(np.finfo(np.float32).max):
        why = f"vectors with values such as {largest:g} are too long for faiss, so every search is an exact scan; scale them down"
        return result(Chosen(None, why, 0.0))
    count = questions.sample_size(request.recall) if queries is None else len(queries)
    questions.require_enough(count, request.recall, request.k, given=queries is not None)
    if queries is None:
        about = f"{count:,} sampled: documents, each moved by half the difference of two others"
        log.warning(
            "no queries were given, so the recall is proven for sampled ones (%s); give real queries: theirs may differ",
            about,
        )
        queries = questions.sampled(vectors, count, rng)
    tuning, apart = questions.split(queries, rng)
    with progress_bar("approximate index", None, show=request.show_progress) as advance:
        asked, held = (questions.answered(base, some, request.k, request.threads) for some in (tuning, apart))
        advance(1)
        tuner = Tuner(
            base=base,
            ids=ids,
            vectors=vectors,
            asked=asked,
            apart=len(held),
            recall=request.recall,
            k=request.k,
            threads=request.threads,
            seed=request.seed,
            memory=request.memory,
            until=begun + (1 - _LEAST_KEPT) * request.budget,
            gpu=request.gpu,
        )
        if (floor := _floor(tuner)) is not None:
            return result(Chosen(None, floor[0], floor[1]), [_exact_row(floor[1])])
        kept = max(_LEAST_KEPT * request.budget, _PROOFS * len(held) * tuner.exact_seconds)
        tuner.until = begun + request.budget - min(kept, _MOST_KEPT * request.budget)
        smallest = tuner.smallest(names)
        if request.memory is not None and smallest > request.memory:
            raise CareError(
                f"memory is {request.memory:,} bytes, but the smallest structure for {len(vectors):,} vectors of width {width} takes "
                f"some {smallest:,} beside the exact index; give as much, or use ExactIndex"
            )
        for kind, share in tuner.family(names):
            tuner.consider(kind, share)
            advance(1)
        chosen = choose(tuner, held, begun + request.budget)
        if chosen.finder is not None:
            count = sum(part.count for part in base)
            measure_limits(chosen, tuner, held, count, rng, begun + (1 - _STEP) * request.budget)
    return result(chosen, [_exact_row(chosen.exact_us), *tuner.tried])


def _alive(base: Sequence[Part]) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """Return the vectors that are not removed, and their ids; None for all."""
    vectors, removed = parts.vectors(base), parts.removed(base)
    if not removed.any():
        return np.ascontiguousarray(vectors), None
    ids = np.flatnonzero(~removed)
    return vectors[ids], ids


def _floor(tuner: Tuner) -> tuple[str, float] | None:
    """Return why nothing can be faster than the exact scan, and its time; None, with the time noted, if something may be."""
    queries = tuner.asked.queries[:_FEWEST_TIMED]
    ids = np.arange(tuner.k) if tuner.ids is None else tuner.ids[: tuner.k]
    exact = median_time(lambda rows: parts.search(tuner.base, rows, tuner.k, tuner.threads), queries)
    least = median_time(lambda rows: parts.search(tuner.base, rows, tuner.k, 1, Few(ids)), queries)
    if exact > least:
        tuner.exact_seconds = exact
        return None
    return (
        f"the exact scan takes {1e6 * exact:.0f} us, rescoring candidates alone {1e6 * least:.0f} us",
        1e6 * exact,
    )


def _exact_row(microseconds: float) -> Tried:
    return Tried(EXACT, "", None, microseconds, 0, 0.0, "the truth")
