"""Candidate pooling: the top documents of several retrievers, fused by reciprocal rank fusion (RRF)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from care_accel.curation.config import Candidates, Config
from care_accel.curation.data import read_data, write_rows
from care_accel.curation.steps import Progress, Summary
from care_accel.curation.texts.duplicates import find_exact_duplicates, find_near_duplicates
from care_accel.encoding import DualEncoder
from care_accel.errors import CareError
from care_accel.eval.cache import EmbeddingCache, vector_keys
from care_accel.files import read_jsonl, text_field, text_list_field
from care_accel.index import BM25Index, ExactIndex
from care_accel.index.fusion import reciprocal_rank_fusion

FILE = "candidates.jsonl"
CACHE = "vectors.sqlite3"
_BM25 = "bm25"
_QUERY_BATCH = 64
# Documents encoded between two writes to the cache: the most that a killed run loses.
_DOCUMENT_BATCH = 1024


@dataclass
class Pool:
    """Candidate documents of one query.

    Attributes
    ----------
    query : str
    documents : list of str
        Ids, best first.
    ranks : dict of str to list of int or None
        By retriever, each document's rank from 1; None beyond the depth.
    duplicates : dict of str to list of str
        By document, its duplicates that were removed from the pool.
    """

    query: str
    documents: list[str]
    ranks: dict[str, list[int | None]] = field(default_factory=dict)
    duplicates: dict[str, list[str]] = field(default_factory=dict)


def run(config: Config, progress: Progress) -> Summary:
    """Write ``candidates.jsonl``: {"query", "documents", "ranks", "duplicates"} per query.

    Raises
    ------
    CareError
        The data or a retriever cannot be used.
    """
    data = read_data(config)
    file = config.output_file(FILE)
    with vector_cache(config.output_file(CACHE)) as cache:
        pools = make_pools(config.candidates, data.queries, data.documents, progress, cache)
    write_rows(file, [vars(pool) for pool in pools])
    sizes = [len(pool.documents) for pool in pools]
    facts: dict[str, object] = {
        "queries": len(pools),
        "pairs": sum(sizes),
        "documents per query": f"{np.mean(sizes):.1f}, at most {max(sizes)}",
        "duplicates removed": sum(len(same) for pool in pools for same in pool.duplicates.values()),
    }
    warnings = [f"{sizes.count(0)} queries have no candidate"] if 0 in sizes else []
    if labels := data.labels:
        found = {
            (pool.query, document)
            for pool in pools
            for documents in (pool.documents, *pool.duplicates.values())
            for document in documents
        }
        positives = {(q, d) for q, row in labels.items() for d, grade in row.items() if grade > 0}
        if positives:
            share = len(positives & found) / len(positives)
            facts["recall of labelled positives"] = f"{100 * share:.1f} %"
    return Summary(facts, files=[file], warnings=warnings)


def make_pools(
    config: Candidates,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    progress: Progress,
    cache: EmbeddingCache | None = None,
) -> list[Pool]:
    """Pool the candidates of every query, in the order of the queries.

    Parameters
    ----------
    config : Candidates
    queries, documents : mapping of str to str
        Texts by id.
    progress : callable
    cache : EmbeddingCache, optional
        Persistent cache of document vectors.

    Raises
    ------
    CareError
        A retriever cannot be loaded.
    """
    names = list(documents)
    rankings = {
        name: retrieve(name, list(queries.values()), list(documents.values()), config.depth, progress, cache)
        for name in config.retrievers
    }
    weights = [1.0] * len(rankings)
    _, fused = reciprocal_rank_fusion(
        list(rankings.values()), len(rankings) * config.depth, weights, constant=config.constant
    )
    pools = []
    for row, query in enumerate(queries):
        found = [int(i) for i in fused[row] if i >= 0]
        kept, same = _deduplicate([documents[names[i]] for i in found], config.deduplicate)
        kept = kept[: config.pool]
        ranks = {
            name: {int(i): rank for rank, i in enumerate(ranking[row], start=1) if i >= 0}
            for name, ranking in rankings.items()
        }
        pools.append(
            Pool(
                query,
                [names[found[k]] for k in kept],
                {name: [rank.get(found[k]) for k in kept] for name, rank in ranks.items()},
                {names[found[k]]: [names[found[other]] for other in same[k]] for k in kept if k in same},
            )
        )
    return pools


def retrieve(
    retriever: str,
    queries: Sequence[str],
    documents: Sequence[str],
    depth: int,
    progress: Progress,
    cache: EmbeddingCache | None = None,
) -> NDArray[np.int64]:
    """Return a retriever's top documents for every query.

    Parameters
    ----------
    retriever : str
        ``bm25``, or the name or folder of a dual encoder.
    queries, documents : sequence of str
    depth : int
    progress : callable
    cache : EmbeddingCache, optional
        See `document_vectors`.

    Returns
    -------
    numpy.ndarray
        Positions, best first, int64 ``[n, depth]``, padded with -1.
    """
    rows = []
    if retriever == _BM25:
        bm25 = BM25Index(documents)
        with progress(f"search: {retriever}", len(queries)) as done:
            for start in range(0, len(queries), _QUERY_BATCH):
                part = queries[start : start + _QUERY_BATCH]
                rows.append(bm25.search(part, k=depth)[1])
                done(len(part))
        return np.concatenate(rows)
    model = DualEncoder.from_pretrained(retriever)
    index = ExactIndex(model.width)
    index.add(document_vectors(model, documents, progress, cache))
    with progress(f"search: {model.name}", len(queries)) as done:
        for start in range(0, len(queries), _QUERY_BATCH):
            part = queries[start : start + _QUERY_BATCH]
            rows.append(index.search(model.encode_query(part), k=depth)[1])
            done(len(part))
    return np.concatenate(rows)


@contextmanager
def vector_cache(file: Path) -> Iterator[EmbeddingCache]:
    """Open a vector cache, and close it at the end."""
    cache = EmbeddingCache(file)
    try:
        yield cache
    finally:
        cache.close()


def document_vectors(
    model: DualEncoder, documents: Sequence[str], progress: Progress, cache: EmbeddingCache | None = None
) -> NDArray[np.float32]:
    """Encode documents that are not in the cache.

    Parameters
    ----------
    model : DualEncoder
    documents : sequence of str
    progress : callable
    cache : EmbeddingCache, optional
        Keys contain the model and the release. Queries are not cached: they are patients' words, and the query
        encoder is fast.

    Returns
    -------
    numpy.ndarray
        float32 ``[n, width]``.
    """
    vectors = np.empty((len(documents), model.width), dtype=np.float32)
    with progress(f"encode documents: {model.name}", len(documents)) as done:
        for start in range(0, len(documents), _DOCUMENT_BATCH):
            part = documents[start : start + _DOCUMENT_BATCH]
            vectors[start : start + len(part)] = (
                model.encode_document(part) if cache is None else _encode_missing(model, part, cache)
            )
            done(len(part))
    return vectors


def _encode_missing(
    model: DualEncoder, documents: Sequence[str], cache: EmbeddingCache
) -> NDArray[np.float32]:
    """Encode cache misses, store them, and return the vectors of all documents."""
    keys = vector_keys(model, "document", "retrieval", documents)
    known = cache.get(keys)
    missing = {key: text for key, text in zip(keys, documents, strict=True) if key not in known}
    if missing:
        vectors = model.encode_document(list(missing.values()))
        cache.put(list(missing), vectors)
        known.update(zip(missing, vectors, strict=True))
    return np.stack([known[key] for key in keys])


def _deduplicate(texts: list[str], how: str) -> tuple[list[int], dict[int, list[int]]]:
    """Return the positions of the texts that are kept, and for each those of its duplicates."""
    if how == "none":
        return list(range(len(texts))), {}
    earlier = find_exact_duplicates(texts) if how == "exact" else find_near_duplicates(texts).of
    kept = [i for i, other in enumerate(earlier) if other < 0]
    same: dict[int, list[int]] = {}
    for i, other in enumerate(earlier.tolist()):
        if other >= 0:
            same.setdefault(other, []).append(i)
    return kept, same


def read_pools(file: Path) -> list[Pool]:
    """Read the pools.

    Raises
    ------
    CareError
        The file is missing or a row is invalid; file and line are named.
    """
    if not file.is_file():
        raise CareError(f"{file}: no such file; run care-accel curate candidates first")
    pools: dict[str, Pool] = {}
    for line, row in read_jsonl(file):
        query = text_field(row, "query", file, line)
        if query in pools:
            raise CareError(
                f"{file}, line {line}: duplicate query {query!r}; remove the line, or run care-accel curate candidates again"
            )
        same: Any = row.get("duplicates", {})
        if not isinstance(same, dict):
            raise CareError(f"{file}, line {line}: 'duplicates' must be an object")
        duplicates = {key: text_list_field(same, key, file, line) for key in same}
        documents = text_list_field(row, "documents", file, line)
        pools[query] = Pool(query, list(dict.fromkeys(documents)), row.get("ranks", {}), duplicates)
    return list(pools.values())
