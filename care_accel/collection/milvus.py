"""A collection written into Milvus, and checked there: `export`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from care_accel.collection.collection import Collection
from care_accel.collection.storage import table as columns
from care_accel.collection.storage.rows import ID, TEXT, TITLE
from care_accel.collection.storage.schema import vectors_of
from care_accel.collection.storage.table import Table
from care_accel.collection.versions.searching import Searcher
from care_accel.errors import CareError, require_count
from care_accel.progress import progress_bar

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger(__name__)

# Columns of the database beside the fields. A document in chunks has a row for each.
KEY, CHUNK, VECTOR = "key", "chunk", "vector"
_OWN = (KEY, ID, CHUNK, TITLE, TEXT, VECTOR)
# Milvus's limits: of a VARCHAR in bytes, of an ARRAY in values, of one answer in hits, and how it writes names.
_TEXT_BYTES, _VALUES, _MOST_HITS = 65_535, 4096, 16_384
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
# Below this the index is worth a word.
_GOOD_RECALL = 0.95
# Scores of float32 vectors, summed in another order.
_EQUAL = 1e-5
_QUERY_CHARACTERS, _QUERIES_AT_ONCE = 32, 50


@dataclass(frozen=True)
class Exported:
    """What `export` wrote, and what the database answers.

    Attributes
    ----------
    name : str
        Of the collection in Milvus.
    version : int
        Version of the collection that was written.
    documents, rows : int
        Documents, and their chunks.
    queries, k : int
        Sampled queries, and hits of each that were compared.
    recall : float
        Share of the exact top k that the database returned, equal scores counted as equal.
    score_difference : float
        Largest difference of a returned score from the exact one.
    seconds : float
        Wall-clock time of writing.
    """

    name: str
    version: int
    documents: int
    rows: int
    queries: int
    k: int
    recall: float
    score_difference: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.documents:,} documents ({self.rows:,} rows) of version {self.version} in {self.seconds:.1f} s; "
            f"recall@{self.k} of {self.queries} queries against the exact scan {self.recall:.4f}, scores within "
            f"{self.score_difference:.1e}"
        )


def export(
    collection: Collection,
    client: MilvusClient,
    name: str,
    *,
    fields: Sequence[str] | Mapping[str, str] | None = None,
    text: bool = True,
    index: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
    queries: Sequence[str] | NDArray[np.float32] | int = 200,
    k: int = 10,
    batch_rows: int = 1000,
    replace: bool = False,
    show_progress: bool = False,
) -> Exported:
    """Write ids, fields and vectors of a collection into a new collection of Milvus, and compare its answers.

    One version is written as a whole. A row is a chunk: ``key`` (the document's id, with ``#`` and the chunk's number where
    documents are cut), ``id``, ``chunk``, ``title``, ``text``, ``vector`` and the fields. The metric is the inner product:
    search with vectors of `DualEncoder.encode_query`.

    Parameters
    ----------
    collection : Collection
    client : pymilvus.MilvusClient
        A server's, or a file's of milvus-lite.
    name : str
        Of the collection in Milvus.
    fields : sequence of str, or mapping of str to str, optional
        Fields to write, or their names here to their names there, which are letters, digits and underscores; by default all.
        Dates and times become texts in ISO 8601.
    text : bool
        Write title and text too.
    index : mapping, optional
        Parameters of the vector's index, such as ``{"index_type": "HNSW", "params": {"M": 32, "efConstruction": 200}}``; by
        default ``AUTOINDEX``. The metric is set here.
    search : mapping, optional
        Search parameters of the comparison, such as ``{"ef": 100}``.
    queries : sequence of str, float32 array or int
        Queries to compare, their vectors ``[n, width]``, or how many to make from the beginnings of sampled documents.
    k : int
        Hits of a query that are compared.
    batch_rows : int
        Rows of an insert.
    replace : bool
        Remove a collection of this name first.
    show_progress : bool

    Returns
    -------
    Exported
        ``str()`` of it is one line.

    Raises
    ------
    CareError
        The name is taken, a field or a text does not fit into Milvus (before anything is written), the server refuses, or
        rows are missing afterwards.
    """
    failures = _failures()
    chunked = collection.manifest.chunk_tokens is not None
    require_count("k", k)
    require_count("batch_rows", batch_rows)
    searcher = collection.searcher()
    table = searcher.table
    if not table.count():
        raise CareError(f"{collection.uri}: there is nothing to export")
    k = min(k, table.count(), _MOST_HITS)
    renamed = _renamed(table, fields)
    _check_texts(table, renamed, text, chunked)
    vectors = _query_vectors(collection, queries)
    begun = perf_counter()
    try:
        if client.has_collection(name):
            if not replace:
                raise CareError(
                    f"{name}: Milvus has a collection of this name; choose another one, or replace=True to remove it"
                )
            client.drop_collection(name)
        about = f"care_accel {collection.manifest.uuid} version {table.version}, model {collection.manifest.revision}"
        schema = _schema(client, table, renamed, text, about)
        prepared = client.prepare_index_params()
        prepared.add_index(
            field_name=VECTOR, **{"index_type": "AUTOINDEX"} | dict(index or {}), metric_type="IP"
        )
        client.create_collection(name, schema=schema, index_params=prepared, consistency_level="Strong")
        with progress_bar("exporting", table.count(), show=show_progress) as advance:
            for rows in _rows(table, renamed, text, chunked, batch_rows):
                client.insert(name, rows)
                advance(len(rows))
        client.flush(name)
        client.load_collection(name)
        seconds = perf_counter() - begun
        found = client.query(name, filter="", output_fields=["count(*)"])[0]["count(*)"]
        if found != table.count():
            raise CareError(
                f"{name}: Milvus has {found:,} of {table.count():,} rows; export again with replace=True"
            )
        recall, difference = _compare(client, name, searcher, chunked, vectors, k, search)
    except failures as cause:
        raise CareError(f"{name}: Milvus refuses: {' '.join(str(cause).split())[:400]}") from None
    made = Exported(
        name, table.version, len(collection), table.count(), len(vectors), k, recall, difference, seconds
    )
    log.log(logging.INFO if recall >= _GOOD_RECALL else logging.WARNING, "%s", made)
    return made


def _failures() -> tuple[type[Exception], ...]:
    try:
        from pymilvus.exceptions import MilvusException
    except ImportError:
        raise CareError(
            "exporting to Milvus needs the package pymilvus: pip install 'care-accel[milvus]'"
        ) from None
    return (MilvusException,)


def _renamed(table: Table, fields: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Return the names of the fields in Milvus."""
    wanted = table.fields if fields is None else fields
    renamed = {
        name: wanted[name] if isinstance(wanted, Mapping) and fields is not None else name for name in wanted
    }
    for name, there in renamed.items():
        if name not in table.fields:
            raise CareError(
                f"fields: there is no {name!r}; the fields are {', '.join(table.fields) or 'none'}"
            )
        if not _NAME.fullmatch(there) or there in _OWN:
            raise CareError(
                f"fields: {there!r} is no name for Milvus (letters, digits and underscores, and none of {', '.join(_OWN)}); "
                f"give another one, as fields={{{name!r}: 'field_1'}}"
            )
    if len(set(renamed.values())) < len(renamed):
        raise CareError("fields: two fields have the same name in Milvus; give each a name of its own")
    return renamed


def _check_texts(table: Table, renamed: Mapping[str, str], text: bool, chunked: bool) -> None:
    """Check that texts fit, before anything is written."""
    texts = [ID, *[name for name in renamed if table.fields[name] == pa.string()]]
    # Of a document in chunks the text of each is a part.
    texts += ([TITLE] if chunked else [TITLE, TEXT]) if text else []
    for batch in table.batches(list(dict.fromkeys([ID, *texts]))):
        for name in texts:
            sizes = pc.binary_length(batch[name])
            if (pc.max(sizes).as_py() or 0) > _TEXT_BYTES:
                place = pc.index(sizes, pc.max(sizes)).as_py()
                mend = "text=False" if name in (TITLE, TEXT) else "fields= without it"
                raise CareError(
                    f"document {str(batch[ID][place].as_py())[:80]!r}: {name!r} has {sizes[place].as_py():,} bytes, and Milvus "
                    f"takes {_TEXT_BYTES:,}; export with {mend}"
                )


def _schema(client: MilvusClient, table: Table, renamed: Mapping[str, str], text: bool, about: str) -> Any:
    from pymilvus import DataType

    schema = client.create_schema(auto_id=False, enable_dynamic_field=False, description=about)
    texts = {"datatype": DataType.VARCHAR, "max_length": _TEXT_BYTES}
    schema.add_field(KEY, **texts, is_primary=True)
    schema.add_field(ID, **texts)
    schema.add_field(CHUNK, DataType.INT32)
    for name in (TITLE, TEXT) if text else ():
        schema.add_field(name, **texts, nullable=True)
    kinds = {pa.int64(): DataType.INT64, pa.float64(): DataType.DOUBLE, pa.bool_(): DataType.BOOL}
    for name, there in renamed.items():
        kind = table.fields[name]
        if pa.types.is_list(kind):
            schema.add_field(
                there,
                DataType.ARRAY,
                element_type=DataType.VARCHAR,
                max_length=_TEXT_BYTES,
                max_capacity=_VALUES,
                nullable=True,
            )
        elif kind in kinds:
            schema.add_field(there, kinds[kind], nullable=True)
        else:
            schema.add_field(there, **texts, nullable=True)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=table.schema.field(columns.VECTOR).type.list_size)
    return schema


def _rows(
    table: Table, renamed: Mapping[str, str], text: bool, chunked: bool, batch_rows: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield rows of Milvus; chunks have title and fields of their document, and their own text."""
    own = [ID, columns.CHUNK, columns.START, columns.END]
    values = [*((TITLE, TEXT) if text else ()), *renamed]
    for batch in table.batches([*own, *values, columns.VECTOR], batch_size=batch_rows):
        chunks = batch.select(own).to_pylist()
        first = {
            row[ID]: row
            for chunk, row in zip(chunks, batch.select([ID, *values]).to_pylist(), strict=True)
            if chunk[columns.CHUNK] == 0
        }
        if elsewhere := list({chunk[ID]: None for chunk in chunks if chunk[ID] not in first}):
            found = table.rows_of(elsewhere, [ID, columns.CHUNK, *values])
            first |= {row[ID]: row for row in found.to_pylist() if row[columns.CHUNK] == 0}
        made = []
        for chunk, vector in zip(chunks, vectors_of(batch[columns.VECTOR]), strict=True):
            document = first[chunk[ID]]
            row = {
                KEY: _key(chunk[ID], chunk[columns.CHUNK], chunked),
                ID: chunk[ID],
                CHUNK: chunk[columns.CHUNK],
                VECTOR: vector.tolist(),
            }
            if text:
                whole = document[TEXT] or ""
                if chunked:
                    whole = whole[chunk[columns.START] : chunk[columns.END]]
                row |= {TITLE: document[TITLE], TEXT: whole}
            row |= {there: _plain(document[name]) for name, there in renamed.items()}
            made.append(row)
        yield made


def _key(document: str, chunk: int, chunked: bool) -> str:
    return f"{document}#{chunk}" if chunked else document


def _plain(value: Any) -> Any:
    """Return a value as Milvus takes it: dates and times as texts."""
    return value.isoformat() if hasattr(value, "isoformat") else value


def _query_vectors(
    collection: Collection, queries: Sequence[str] | NDArray[np.float32] | int
) -> NDArray[np.float32]:
    """Return the vectors of queries, float32 ``[n, width]``."""
    width = collection.manifest.width
    if isinstance(queries, np.ndarray):
        if queries.ndim != 2 or queries.shape[1] != width or not len(queries):
            raise CareError(f"queries: have the shape {list(queries.shape)}; it must be [n, {width}]")
        return np.ascontiguousarray(queries, dtype=np.float32)
    if isinstance(queries, int):
        require_count("queries", queries)
        rows = collection.searcher().snapshot.rows
        places = np.flatnonzero(collection.searcher().snapshot.alive & (rows.chunk_numbers() == 0))
        some = np.random.default_rng(0).permutation(places)[:queries]
        documents = [rows.document(int(place)) for place in np.sort(some)]
        queries = [(row[TITLE] or row[TEXT] or "")[:_QUERY_CHARACTERS] for row in documents]
    if not len(queries):
        raise CareError("queries: there are none; give some, or how many to sample")
    return np.asarray(collection.model.encode_query(list(queries)), dtype=np.float32)


def _compare(
    client: MilvusClient,
    name: str,
    searcher: Searcher,
    chunked: bool,
    vectors: NDArray[np.float32],
    k: int,
    search: Mapping[str, Any] | None,
) -> tuple[float, float]:
    """Return the recall of the database's answers, and the largest difference of a score."""
    index, rows = searcher.snapshot.index, searcher.snapshot.rows
    exact, positions = index.search(vectors, k)
    found, difference = 0, 0.0
    for start in range(0, len(vectors), _QUERIES_AT_ONCE):
        stop = start + _QUERIES_AT_ONCE
        answers = client.search(
            name,
            data=vectors[start:stop].tolist(),
            limit=k,
            search_params={"metric_type": "IP", "params": dict(search or {})},
            output_fields=[KEY],
        )
        for hits, scores, places in zip(answers, exact[start:stop], positions[start:stop], strict=True):
            known = {
                _key(*rows.chunk(int(place))[:2], chunked): float(score)
                for place, score in zip(places, scores, strict=True)
            }
            answered = {hit[KEY]: float(hit["distance"]) for hit in hits}
            # A hit beyond the exact ones whose score is that of the last one is as good.
            found += min(
                k, sum(key in known or score >= scores[-1] - _EQUAL for key, score in answered.items())
            )
            both = [abs(score - known[key]) for key, score in answered.items() if key in known]
            difference = max(difference, *both, 0.0)
    return found / (k * len(vectors)), difference
