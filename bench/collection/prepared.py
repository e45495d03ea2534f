"""A collection of synthetic vectors: all but the encoding is real."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.collection.by_hand import faiss
from bench.inputs import mini
from bench.scan.test_scan import clustered
from care_accel import Collection, EncoderSpec
from care_accel.encoding.base import BaseDualEncoder, BaseEncoder, EncodeCounts
from care_accel.encoding.choice import Choice

# Characters of a text, about those of a short answer; they are stored, not encoded.
_LETTERS = 200
QUERIES = 64


class PreparedEncoder(BaseEncoder):
    """Looks vectors up instead of computing them: a text begins with the number of its vector."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.spec = EncoderSpec(pooling="mean", order="normalize-then-slice", width=vectors.shape[1])
        self.counts = EncodeCounts()
        self._vectors = vectors

    def _encode(self, texts: list[str], *_: Any) -> NDArray[np.float32]:
        return self._vectors[[int(text.partition(" ")[0]) for text in texts]]

    def encode_timed(
        self, texts: Sequence[str], task: Any = "retrieval"
    ) -> tuple[NDArray[np.float32], float, float]:
        return self._encode(list(texts)), 0.0, 0.0


class PreparedModel(BaseDualEncoder):
    """A dual encoder of prepared vectors, so that a collection can be made without a network."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.name, self.width, self.symmetric = "prepared", vectors.shape[1], True
        self._encoder = PreparedEncoder(vectors)

    def encoder(self, role: Any) -> BaseEncoder:
        return self._encoder

    def spec(self, role: Any) -> EncoderSpec:
        return self._encoder.spec

    def revision(self, role: Any) -> str:
        return "prepared"

    def choice(self, role: Any) -> Choice:
        return Choice("native", "float32", "cpu", 1, "vectors are looked up")

    def provenance(self, role: Any) -> dict[str, Any]:
        return {}

    def _explanation(self) -> list[str]:
        return []


class World:
    """A collection of synthetic vectors in a temporary folder, which is removed with this object.

    Parameters
    ----------
    count, width : int

    Attributes
    ----------
    vectors : numpy.ndarray
        float32 ``[count, width]``: clusters, as those of real texts; row i is the vector of document i at first.
    queries : numpy.ndarray
        float32 ``[QUERIES, 1, width]``.
    places : numpy.ndarray
        int64 ``[count]``, the field ``place``: a random order, of which filters take a part.
    folder, uri, index_dir : Path
    collection : Collection
        As it was made, searched once.
    """

    def __init__(self, count: int, width: int) -> None:
        rng = np.random.default_rng(0)
        self.count, self.width = count, width
        self.vectors = clustered(rng, count, width)
        self.queries = clustered(rng, QUERIES, width)[:, np.newaxis]
        self.places = rng.permutation(count)
        self.model = PreparedModel(self.vectors)
        self._texts = [text[:_LETTERS] for text in real_documents(2_000)[1]]
        self._rng = rng
        self._temporary = tempfile.TemporaryDirectory(prefix="care-bench-")
        self.folder = Path(self._temporary.name)
        self.uri, self.index_dir = self.folder / "collection", self.folder / "index"
        self.collection = Collection.create(
            self.uri, self.model, fields={"place": "int"}, index_dir=self.index_dir
        )
        self.collection.upsert(self.row(number) for number in range(count))
        self.collection.search_vectors(self.queries[0])

    def row(self, number: int, vector: int | None = None) -> dict[str, Any]:
        """Return the row of a document; its own vector by default."""
        text = f"{number if vector is None else vector} {self._texts[number % len(self._texts)]}"
        return {"id": str(number), "text": text, "place": int(self.places[number])}

    def changes(self, documents: int) -> Iterator[tuple[list[dict[str, Any]]]]:
        """Yield rows of a few documents that get other vectors, as arguments of an upsert."""
        while True:
            numbers = self._rng.choice(self.count, documents, replace=False)
            vectors = self._rng.integers(self.count, size=documents)
            yield ([self.row(int(n), int(v)) for n, v in zip(numbers, vectors, strict=True)],)

    def opened(self) -> Collection:
        """Return another object of the collection, as another process has it."""
        return Collection.open(self.uri, model=self.model, index_dir=self.index_dir)

    @functools.cached_property
    def flat(self) -> Any:
        """The index of faiss over the vectors; skips where it is missing."""
        index = faiss().IndexFlatIP(self.width)
        index.add(self.vectors)
        return index

    def table(self) -> tuple[Any, str]:
        """Return the Lance table under the collection, as Lance opens it, and the name of the column of vectors."""
        import lance

        (folder,) = self.uri.glob("*.lance")
        opened = lance.dataset(str(folder))
        return opened, next(field.name for field in opened.schema if hasattr(field.type, "list_size"))


def real_documents(most: int) -> tuple[list[str], list[str]]:
    """Return ids and texts of some real answers; the demo's documents without a data folder."""
    there = (mini.texts.data_folder() / "retrieval" / "huatuo-qa").is_dir()
    rows = mini.ranking("huatuo-qa" if there else None)[1]
    documents = mini.documents_of(rows)
    order = np.random.default_rng(0).permutation(len(documents))[:most]
    ids = list(rows.documents)
    return [ids[i] for i in order], [documents[i] for i in order]
