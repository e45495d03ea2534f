"""Retrieves documents for query texts with a dual encoder and an index, optionally with a lexical index (BM25)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol, Self, cast, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from care_accel.encoding import DualEncoder
from care_accel.encoding.base import checked_texts
from care_accel.encoding.runtimes.server import ServerClient
from care_accel.encoding.served import batch_times
from care_accel.encoding.spec import Role
from care_accel.errors import CareError, require_count
from care_accel.files import check_format, read_json, read_json_values, write_json
from care_accel.folders import replaced_folder
from care_accel.index import BM25Index, ExactIndex, SearchStats, VectorIndex, load_index
from care_accel.index.checks import subset_mask
from care_accel.index.fusion import DEPTH, reciprocal_rank_fusion

MANIFEST = "retriever.json"
FORMAT = 2
_VECTORS, _LEXICAL, _DOCUMENTS = "vectors", "lexical", "documents.jsonl"
# Format 1, of care_accel 0.1.0, has another name for the lexical index.
_OLD_FORMAT, _OLD_LEXICAL = 1, "words"


@dataclass(frozen=True)
class Hit:
    """One search result.

    Attributes
    ----------
    id : int or str
        Position of the document in the index; in a `Collection` the user's own id.
    score : float
        Inner product of query and document embedding. With a lexical index, the score of reciprocal rank fusion:
        1 / (5 + dense rank) + 0.5 / (5 + lexical rank).
    document : object
        The stored document, None if the retriever has no documents.
    span : tuple of int or None
        Of a document in chunks: start and end, in characters of its text, of the chunk that matched.
    """

    id: Any
    score: float
    document: Any = None
    span: tuple[int, int] | None = None


class Timings(NamedTuple):
    """Latency of a search by phase, wall-clock time in microseconds.

    Attributes
    ----------
    tokenise : float
        Texts to token ids, prompts included.
    encode : float
        Token ids to embeddings.
    scan : float
        Embeddings to positions and scores; with a lexical index, BM25 search and fusion too.
    """

    tokenise: float
    encode: float
    scan: float


Found = tuple[list[list[Hit]], Timings]
Subset = ArrayLike | None
Texts = Sequence[str]


class ModelIdentity(Protocol):
    """Identifies the model of an index: a `DualEncoder`, or the description of one that runs elsewhere."""

    name: str
    width: int

    def revision(self, role: Role) -> str:
        """Return the hash of a role's encoder."""
        ...


class _Searcher:
    """Search interface of `Retriever` and `ServedRetriever`."""

    @overload  # a str is a sequence of str as well, which the checker cannot tell apart
    def search(  # type: ignore[overload-overlap]
        self, queries: str, k: int = ..., *, subset: Subset = ..., return_timings: Literal[False] = ...
    ) -> list[Hit]: ...

    @overload
    def search(
        self, queries: Texts, k: int = ..., *, subset: Subset = ..., return_timings: Literal[False] = ...
    ) -> list[list[Hit]]: ...

    @overload
    def search(  # type: ignore[overload-overlap]
        self, queries: str, k: int = ..., *, subset: Subset = ..., return_timings: Literal[True]
    ) -> tuple[list[Hit], Timings]: ...

    @overload
    def search(
        self, queries: Texts, k: int = ..., *, subset: Subset = ..., return_timings: Literal[True]
    ) -> tuple[list[list[Hit]], Timings]: ...

    def search(
        self, queries: str | Texts, k: int = 10, *, subset: Subset = None, return_timings: bool = False
    ) -> Any:
        """Return the top k documents, by descending score, then by ascending id.

        Parameters
        ----------
        queries : str or sequence of str
        k : int
            Maximum hits per query; an index with fewer documents gives fewer.
        subset : array_like, optional
            Search only these documents: a mask, bool ``[n]``, or positions in any order.
        return_timings : bool

        Returns
        -------
        hits : list of Hit
            For a str; else one such list per query.
        timings : Timings
            If ``return_timings``: total over all queries.
        """
        require_count("k", k)
        texts = checked_texts([queries] if isinstance(queries, str) else queries)
        hits, timings = self._find(texts, k, subset)
        found = hits[0] if isinstance(queries, str) else hits
        return (found, timings) if return_timings else found

    def _find(self, queries: list[str], k: int, subset: Subset) -> Found:
        raise NotImplementedError


class Retriever(_Searcher):
    """Dense retrieval with a dual encoder and an index; hybrid retrieval if there is a lexical index.

    Parameters
    ----------
    model : DualEncoder
        Only its query encoder is loaded. If queries are encoded elsewhere (`search_vectors`), any object with a name, a
        width and a revision.
    index : ExactIndex or ApproximateIndex
        Embeddings from the same model's document encoder.
    documents : sequence, optional
        One object per vector, returned with the hits: texts, rows, anything.
    lexical : BM25Index, optional
        Lexical index of the same documents. The top 100 of both rankings are then combined by reciprocal rank fusion
        (Cormack et al., SIGIR 2009).

    Raises
    ------
    CareError
        The index has another width or was made by another document encoder, or the number of documents, vectors or
        entries of the lexical index differs.
    """

    def __init__(
        self,
        model: ModelIdentity,
        index: VectorIndex,
        documents: Sequence[Any] | None = None,
        *,
        lexical: BM25Index | None = None,
    ) -> None:
        if index.width != model.width:
            raise CareError(
                f"the index has width {index.width}, but {model.name} has width {model.width}; load the model that made "
                "the index"
            )
        revision = model.revision("document")
        if index.encoder_revision is not None and index.encoder_revision != revision:
            raise CareError(
                f"the index was made by document encoder {index.encoder_revision}, but {model.name} has {revision}; "
                "re-encode the documents with this model, or load the model that made the index"
            )
        if documents is not None and len(documents) != len(index):
            raise CareError(
                f"{len(documents)} documents for an index of {len(index)} vectors; give one document per vector"
            )
        if lexical is not None and len(lexical) != len(index):
            raise CareError(
                f"the lexical index has {len(lexical)} documents, the index {len(index)} vectors; index the same "
                "documents in both"
            )
        self.model = cast(DualEncoder, model)
        self.index = index
        self.documents = documents
        self.lexical = lexical

    @classmethod
    def from_documents(
        cls, model: DualEncoder, documents: Sequence[str], *, lexical: bool = False, **options: Any
    ) -> Retriever:
        """Encode and index documents.

        Parameters
        ----------
        model : DualEncoder
        documents : sequence of str
        lexical : bool
            Build a lexical index (BM25) as well.
        **options
            Passed to `DualEncoder.encode_document`: ``batch_size``, ``show_progress``.
        """
        revision, order = model.revision("document"), model.spec("document").order
        index = ExactIndex(model.width, encoder_revision=revision, order=order)
        index.add(model.encode_document(documents, **options))
        return cls(model, index, documents, lexical=BM25Index(documents) if lexical else None)

    def save(self, folder: str | Path) -> None:
        """Write vectors, lexical index and documents to a folder that only its owner can read.

        Raises
        ------
        CareError
            The folder exists and holds something else, or a document is not a JSON value.
        """
        with replaced_folder(Path(folder), MANIFEST, [_VECTORS, _LEXICAL, _OLD_LEXICAL, _DOCUMENTS]) as built:
            self.index.save(built / _VECTORS, moved_to=Path(folder) / _VECTORS)
            if self.lexical is not None:
                self.lexical.save(built / _LEXICAL)
            if self.documents is not None:
                _write_documents(built / _DOCUMENTS, self.documents)
            parts = {_LEXICAL: self.lexical is not None, _DOCUMENTS: self.documents is not None}
            write_json(built / MANIFEST, {"format": FORMAT, "parts": parts})

    @classmethod
    def from_server(cls, address: str, **options: Any) -> ServedRetriever:
        """Return a retriever that uses the encoder and the index of an inference server.

        Parameters
        ----------
        address : str
            Host and gRPC port, such as ``"localhost:8001"``, or HTTP port, such as ``"http://localhost:8000"``, which is faster;
            see `ServerClient`.
        **options
            Passed to `ServerClient`: ``timeout``, ``retries``, ``in_flight``.

        Raises
        ------
        CareError
            The server does not answer, or serves no ``search``.
        """
        client = ServerClient(address, **options)
        client.describe_search()
        return ServedRetriever(client)

    @classmethod
    def load(cls, folder: str | Path, model: ModelIdentity, *, device: str = "cpu") -> Retriever:
        """Load a saved retriever with the model that made it.

        Parameters
        ----------
        folder : str or Path
        model : DualEncoder
        device : str
            Device of the scan, as in `ExactIndex`.

        Raises
        ------
        CareError
            The folder has no retriever or an incomplete one, or it was made by another document encoder.
        """
        folder = Path(folder)
        manifest = read_json(folder / MANIFEST, "a saved retriever has one")
        check_format(manifest, folder / MANIFEST, _OLD_FORMAT, FORMAT)
        lexical_name = _OLD_LEXICAL if manifest["format"] == _OLD_FORMAT else _LEXICAL
        parts = manifest.get("parts")
        if not isinstance(parts, dict) or not {lexical_name, _DOCUMENTS} <= parts.keys():
            raise CareError(f"{folder / MANIFEST}: 'parts' must list {lexical_name!r} and {_DOCUMENTS!r}")
        documents = (
            [value for _, value in read_json_values(folder / _DOCUMENTS)] if parts[_DOCUMENTS] else None
        )
        lexical = BM25Index.load(folder / lexical_name) if parts[lexical_name] else None
        return cls(model, load_index(folder / _VECTORS, device=device), documents, lexical=lexical)

    def _find(self, queries: list[str], k: int, subset: Subset) -> Found:
        vectors, tokenise, encode = self.model.encoder("query").encode_timed(queries)
        begun = perf_counter()
        scores, ids, _ = self.search_vectors(vectors, k, queries, subset=subset)
        scan = 1e6 * (perf_counter() - begun)
        hits = [
            [Hit(int(i), float(s), self.document(int(i))) for i, s in zip(row, values, strict=True) if i >= 0]
            for row, values in zip(ids, scores, strict=True)
        ]
        return hits, Timings(tokenise, encode, scan)

    def search_vectors(
        self,
        vectors: NDArray[np.float32],
        k: int = 10,
        queries: Sequence[str] | None = None,
        *,
        subset: Subset = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], SearchStats]:
        """Search with encoded queries.

        Parameters
        ----------
        vectors : numpy.ndarray
            float32 ``[n, width]``.
        k : int
        queries : sequence of str, optional
            Texts of the queries; required with a lexical index.
        subset : array_like, optional
            As in `search`; of both rankings with a lexical index. Removed vectors are in neither.

        Returns
        -------
        scores, ids : numpy.ndarray
            float32 and int64 ``[n, k]``, best first; padded with ``-inf`` and -1 if there are fewer documents.
        stats : SearchStats
            Statistics of the dense search.

        Raises
        ------
        CareError
            k is below 1, the vectors do not fit the index, a document of the subset does not exist, or the texts for a
            lexical index are missing.
        """
        if self.lexical is None:
            return self.index.search(vectors, k=k, subset=subset, return_stats=True)
        if queries is None or len(queries) != len(vectors):
            raise CareError("this retriever has a lexical index; give the text of every query")
        require_count("k", k)
        depth = max(k, DEPTH)
        _, ids, stats = self.index.search(vectors, k=depth, subset=subset, return_stats=True)
        if self.index.alive < len(self.index):
            alive = ~self.index.removed
            subset = alive if subset is None else alive & subset_mask(subset, len(alive))
        rankings = [ids, self.lexical.search(queries, k=depth, subset=subset)[1]]
        return *reciprocal_rank_fusion(rankings, k), stats

    def document(self, position: int) -> Any:
        """Return the stored document at a position, None if the retriever has no documents."""
        return None if self.documents is None else self.documents[position]


class ServedRetriever(_Searcher):
    """Search with the model ``search`` of an inference server; created by `Retriever.from_server`.

    `search` works as in `Retriever`, with timings measured by the server, each batch counted once. The server rejects
    empty queries and a ``k`` above its limit. Of a collection, hits have the user's ids; its filters are in
    ``client.search``.

    Attributes
    ----------
    client : ServerClient
    """

    def __init__(self, client: ServerClient) -> None:
        self.client = client

    def _find(self, queries: list[str], k: int, subset: Subset) -> Found:
        found = self.client.search(queries, k, subset=subset)
        if found.shares is not None and len(found.shares) and found.shares.min() < 1:
            raise CareError("not all shards answered; client.search gives partial answers, with their shares")
        names: Any = found.document_ids or found.ids.tolist()
        spans = found.spans or [[None] * len(row) for row in names]
        hits = [
            [Hit(n, float(s), d, span) for n, s, d, span in zip(*row, strict=True) if n not in (-1, None)]
            for row in zip(names, found.scores, found.documents, spans, strict=True)
        ]
        return hits, Timings(*batch_times(found.times))

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _write_documents(file: Path, documents: Sequence[Any]) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for position, document in enumerate(documents):
            try:
                stream.write(json.dumps(document) + "\n")
            except (TypeError, ValueError) as cause:
                raise CareError(
                    f"document {position} cannot be saved: {cause}; save texts or JSON values, or a "
                    "retriever without documents"
                ) from None
