"""The family of structures that are tried: graphs, and lists with vectors or codes; faiss builds and searches them.

====================  ==================================================================================
HNSW32,SQ8            a graph of 32 links a vector (Malkov and Yashunin, 2018) over int8 codes
HNSW32,Flat           the same over the vectors: twice to four times the memory traffic, no loss by codes
IVFn,Flat             n lists of vectors by nearest centre; n is a fourth to 8 times the root of their number
IVFn,SQ8              int8 codes in lists
IVFn,PQmx4fsr         product quantisation of the residual, 4 bits for every two values, read by fast-scan
IVFn,RaBitQ           one bit a value (Gao and Long, SIGMOD 2024), after a random rotation
====================  ==================================================================================

Codes lose little once more candidates than hits are rescored from the vectors, which the index does for all of them. Many centres are found
by 4-bit codes, too, and twice as many as lists are searched are compared exactly.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.errors import CareError
from care_accel.index.approximate.library import faiss_library, omp_threads
from care_accel.index.approximate.lists import Lists, TooSlowError, find_lists, of_length_1, too_slow
from care_accel.index.approximate.one_query import OneQuery

# faiss asks for as many vectors a list to find its centre.
PER_LIST = 39
# How many neighbours are looked through for a new vector of a graph, or fewer where that would take too long; faiss has 40.
_CONSTRUCTION = (200, 40)
# A graph is built in blocks, so that one that takes too long can be given up.
_BLOCKS, _FIRST = 24, 4096
# Of the time for lists with codes, to find the lists.
_LISTS_SHARE = 0.8
# Vectors that are put into lists at a time.
_ADDED = 65_536
# Of a value of a query, where the vectors have one: a third faster than 8, and no worse.
_QUERY_BITS = 4
# How many times k candidates are rescored.
_MANY = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_FACTORS = {"Flat": (1,), "SQ8": (1, 2), "PQ": _MANY, "RaBitQ": _MANY}
_MOST_FACTOR, _MOST_CANDIDATES = 16, 640
# From so many bytes of centres on they are searched by 4-bit codes, which a cache holds: so many times as many as lists are searched.
_MANY_CENTRES_BYTES, _CENTRES_FACTOR = 2**20, 2
# Rounding in float32 may exchange neighbours at the border.
_MARGIN = 2
_MOST_EF = 4096
# In the order in which they are tried; of vectors that no cache holds, those that take less to read come first.
CODES = ("Flat", "SQ8", "PQ", "RaBitQ")
CODES_OF_MANY = ("PQ", "SQ8", "RaBitQ", "Flat")
# For these fewer lists may be best than for others.
QUICKLY_READ = ("PQ",)
# What faiss has on a GPU of this family.
GPU_CODES = ("Flat", "SQ8")


@dataclass(frozen=True)
class Kind:
    """A structure that can be built.

    Parameters
    ----------
    links : int
        Of a graph; 0 for lists.
    lists : int
    codes : {"Flat", "SQ8", "PQ", "RaBitQ"}
    """

    links: int
    lists: int
    codes: str

    def name(self, width: int) -> str:
        """Return the name in faiss's index factory."""
        if self.links:
            return f"HNSW{self.links},{self.codes}"
        codes = f"PQ{_pieces(width)}x4fsr" if self.codes == "PQ" else self.codes
        return f"{f'RR{width},' if self.codes == 'RaBitQ' else ''}IVF{self.lists},{codes}"

    def candidates(self, k: int, count: int) -> list[int]:
        """Return how many candidates of so many vectors are rescored, ascending: the fewer bits a code has, the more may be needed."""
        wanted = [max(k * factor, k + _MARGIN) for factor in _FACTORS[self.codes]]
        most = min(count // 2, max(_MOST_FACTOR * k, _MOST_CANDIDATES))
        return [one for one in wanted if one <= most] or wanted[:1]

    def estimated_bytes(self, count: int, width: int) -> int:
        """Return about what so many vectors take."""
        code = {"Flat": 4 * width, "SQ8": width, "PQ": _pieces(width) / 2, "RaBitQ": width / 8 + 8}[
            self.codes
        ]
        if self.links:
            return int(count * (code + 8 * self.links * 1.06 + 12))
        return int(
            count * (code + 8) + 4 * self.lists * width + (4 * width**2 if self.codes == "RaBitQ" else 0)
        )

    def values(self, count: int, candidates: int) -> list[int]:
        """Return the values of the setting that are tried, some 15 % apart, ascending."""
        first, last = (candidates, max(candidates, min(count, _MOST_EF))) if self.links else (1, self.lists)
        steps = sorted({round(1.15**step) for step in range(64)})
        return [value for value in steps if first <= value < last] + [last]


def lists_tried(count: int) -> list[int]:
    """Return the numbers of lists that are tried for so many vectors."""
    most = count // PER_LIST
    return sorted({min(round(times * count**0.5), most) for times in (0.25, 0.5, 1, 2, 4, 8)} - {0, 1})


def parse(name: str, count: int) -> Kind:
    """Return the kind of a name such as ``"IVF1024,SQ8"``.

    Raises
    ------
    CareError
        It is not in the family, or has more lists than so many vectors can fill.
    """
    match = re.fullmatch(r"(HNSW|IVF)([1-9]\d*),(Flat|SQ8|PQ|RaBitQ)", name)
    if match is None or (match[1] == "HNSW" and match[3] not in ("Flat", "SQ8")):
        raise CareError(
            f"family has {name!r}; it may have HNSW32,Flat, HNSW32,SQ8, and IVF with a number of lists and Flat, SQ8, PQ or "
            "RaBitQ, such as IVF1024,SQ8"
        )
    number = int(match[2])
    if match[1] == "HNSW":
        if not 2 <= number <= 256:
            raise CareError(f"family has {name!r}; a graph has 2 to 256 links a vector")
        return Kind(number, 0, match[3])
    if number * PER_LIST > count:
        raise CareError(
            f"family has {name!r}, but there are {count:,} vectors; lists need {PER_LIST} each, so at most "
            f"{count // PER_LIST:,}"
        )
    return Kind(0, number, match[3])


def _pieces(width: int) -> int:
    """Return into how many pieces product quantisation cuts a vector: of two values, or a few more if it does not divide."""
    return max(pieces for pieces in range(1, max(1, width // 2) + 1) if width % pieces == 0)


class Structure:
    """A structure of faiss and how it is searched.

    Parameters
    ----------
    name : str
        In faiss's index factory.
    index : object
        Of faiss.
    """

    def __init__(self, name: str, index: Any) -> None:
        self.name = name
        self.index = index
        self.on_gpu = False

    @property
    def lists(self) -> int:
        """The number of lists, 0 of a graph."""
        match = re.search(r"IVF(\d+)", self.name)
        return int(match[1]) if match else 0

    @property
    def selects(self) -> bool:
        """Whether a search can be of some vectors only."""
        return not self.on_gpu

    def parameters(self, value: int, selector: Any = None) -> Any:
        """Return the parameters of a search, for `search`; several searches may use them at once."""
        faiss = faiss_library()
        if "HNSW" in self.name:
            return faiss.SearchParametersHNSW(efSearch=value, sel=selector)
        if "RaBitQ" not in self.name:
            return faiss.SearchParametersIVF(nprobe=value, sel=selector)
        inner = faiss.IVFRaBitQSearchParameters(nprobe=value, sel=selector, qb=_QUERY_BITS)
        return faiss.SearchParametersPreTransform(index_params=inner)

    def search(
        self, queries: NDArray[np.float32], count: int, parameters: Any, threads: int
    ) -> NDArray[np.int64]:
        """Return candidates, int64 ``[n, count]`` places in the structure, -1 for none."""
        if "RaBitQ" in self.name:
            # Its codes are of what a query differs from a centre, so that hits would depend on the length of a query.
            queries = of_length_1(queries)
        with omp_threads(threads):
            found: NDArray[np.int64] = self.index.search(queries, count, params=parameters)[1]
        return found

    def one_query(self, count: int, ids: NDArray[np.int64] | None) -> OneQuery | None:
        """Return what searches for one query at a time; None on a GPU.

        Parameters
        ----------
        count : int
            Of candidates.
        ids : numpy.ndarray, optional
            int64: the id of each vector, -1 for one that is gone; by default its place.
        """
        if self.on_gpu:
            return None
        return OneQuery(self.index, int(self.index.d), count, of_length_1="RaBitQ" in self.name, ids=ids)

    def bytes(self) -> int:
        """Return what the structure takes, as faiss writes it."""
        faiss, counted = faiss_library(), 0

        def count(data: bytes) -> None:
            nonlocal counted
            counted += len(data)

        faiss.write_index(self.on_cpu(), faiss.PyCallbackIOWriter(count))
        return counted

    def on_cpu(self) -> Any:
        """Return the index of faiss in host memory."""
        return faiss_library().index_gpu_to_cpu(self.index) if self.on_gpu else self.index

    def moved_to_gpu(self, number: int) -> None:
        """Search on a GPU from now on."""
        faiss = faiss_library()
        self.resources = faiss.StandardGpuResources()
        self.index = faiss.index_cpu_to_gpu(self.resources, number, self.index)
        self.on_gpu = True


def build(
    kind: Kind,
    vectors: NDArray[np.float32],
    *,
    seconds: float,
    seed: int,
    threads: int,
    lists: dict[int, Lists],
) -> Structure:
    """Build a structure.

    Parameters
    ----------
    kind : Kind
    vectors : numpy.ndarray
        float32 ``[n, width]``.
    seconds : float
        How long it may take, about.
    seed, threads : int
    lists : dict
        Lists by their number, which are found once for all codes.

    Raises
    ------
    TooSlowError
        It would take longer.
    """
    name, until = kind.name(vectors.shape[1]), perf_counter() + seconds
    with omp_threads(threads):
        if kind.links:
            return Structure(name, _graph(name, vectors, until, seed))
        if kind.lists not in lists:
            lists[kind.lists] = find_lists(kind.lists, vectors, _LISTS_SHARE * seconds, seed, threads)
        return Structure(name, _coded(kind, name, vectors, lists[kind.lists], until))


def _graph(name: str, vectors: NDArray[np.float32], until: float, seed: int) -> Any:
    """Return a graph, for which fewer neighbours are looked through where more would take too long."""
    faiss = faiss_library()
    for construction in _CONSTRUCTION:
        index = faiss.index_factory(vectors.shape[1], name, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = construction
        index.hnsw.rng = faiss.RandomGenerator(seed)
        index.train(vectors)
        try:
            _add_to_graph(index, vectors, until)
        except TooSlowError:
            if construction == _CONSTRUCTION[-1]:
                raise
        else:
            return index
    raise AssertionError


def _add_to_graph(index: Any, vectors: NDArray[np.float32], until: float) -> None:
    begun, done = perf_counter(), 0
    # The first block is small, so that what is far too slow is seen at once; of a small graph a vector takes less time than of a large one.
    first = min(_FIRST, max(1, len(vectors) // _BLOCKS))
    for block in (vectors[:first], *np.array_split(vectors[first:], _BLOCKS)):
        index.add(np.ascontiguousarray(block))
        done += len(block)
        expected = (
            (perf_counter() - begun) * len(vectors) / done * math.log(len(vectors)) / math.log(done + 1)
        )
        if begun + expected > until and done < len(vectors):
            raise too_slow(expected)


def _coded(kind: Kind, name: str, vectors: NDArray[np.float32], lists: Lists, until: float = math.inf) -> Any:
    """Return an index of faiss with these lists, which is not searched for them once more for each vector."""
    faiss, width = faiss_library(), vectors.shape[1]
    # Only codes without fast-scan can be put into given lists; those are then repacked.
    plain = name.removesuffix("fsr") + "np" if kind.codes == "PQ" else name
    index = faiss.index_factory(width, plain, faiss.METRIC_INNER_PRODUCT)
    inner, rotation = faiss.extract_index_ivf(index), None
    if kind.codes == "RaBitQ":
        rotation = faiss.downcast_VectorTransform(index.chain.at(0))
        rotation.train(vectors[:1])
    inner.quantizer.add(lists.centres if rotation is None else rotation.apply(lists.centres))
    if kind.codes == "PQ":
        index.pq.cp.min_points_per_centroid = 1  # fewer than faiss likes are no reason to print a warning
    # One-bit codes learn nothing of the vectors, and faiss would rotate all of them.
    index.train(vectors if rotation is None else vectors[:1])
    begun = perf_counter()
    for first in range(0, len(vectors), _ADDED):
        if first and begun + (expected := (perf_counter() - begun) * len(vectors) / first) > until:
            raise too_slow(expected)
        block = np.ascontiguousarray(vectors[first : first + _ADDED])
        block = block if rotation is None else rotation.apply(block)
        places = np.ascontiguousarray(lists.places[first : first + _ADDED])
        inner.add_core(len(block), faiss.swig_ptr(block), None, faiss.swig_ptr(places))
    index.ntotal = inner.ntotal
    if kind.codes != "PQ":
        return index
    packed = faiss.IndexIVFPQFastScan(index)
    packed.own_fields, index.own_fields = True, False
    if lists.centres.nbytes >= _MANY_CENTRES_BYTES and len(lists.centres) >= 16 * PER_LIST:
        _code_centres(packed, lists.centres)
    return packed


def _code_centres(index: Any, centres: NDArray[np.float32]) -> None:
    """Have an index find lists by 4-bit codes of their centres, the best of which are compared exactly."""
    faiss, width = faiss_library(), centres.shape[1]
    codes = faiss.IndexPQFastScan(width, _pieces(width), 4, faiss.METRIC_INNER_PRODUCT)
    codes.train(centres)
    codes.add(centres)
    both = faiss.IndexRefine(codes, index.quantizer)
    both.k_factor = _CENTRES_FACTOR
    both.own_fields = both.own_refine_index = True
    codes.this.disown()
    index.quantizer = both
    both.this.disown()
