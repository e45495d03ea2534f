"""Query text to hits: a dual encoder and an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from care_accel.encoding import DualEncoder
from care_accel.errors import CareError
from care_accel.index import ExactIndex


@dataclass(frozen=True)
class Hit:
    """A document that was found.

    Attributes
    ----------
    id : int
        Its position in the index.
    score : float
        Inner product of the query's vector and the document's.
    document : object
        What the retriever was given for it, None if it was given nothing.
    """

    id: int
    score: float
    document: Any = None


class Retriever:
    """Finds the documents of an index that answer a query.

    Parameters
    ----------
    model : DualEncoder
        Only its query encoder is used, and loaded.
    index : ExactIndex
        Vectors of the same model's document encoder.
    documents : sequence, optional
        One object a vector, handed out with the hits: texts, rows, anything.

    Raises
    ------
    CareError
        The index has another width, was made by another document encoder, or does not have as many
        vectors as there are documents.
    """

    def __init__(self, model: DualEncoder, index: ExactIndex, documents: Sequence[Any] | None = None) -> None:
        if index.width != model.width:
            raise CareError(
                f"the index holds vectors of width {index.width}, {model.name} makes {model.width}"
            )
        revision = model.revision("document")
        if index.encoder_revision is not None and index.encoder_revision != revision:
            raise CareError(
                f"the index was made by document encoder {index.encoder_revision}, {model.name} has {revision}; "
                "encode the documents anew with this model, or load the model that made the index"
            )
        if documents is not None and len(documents) != len(index):
            raise CareError(
                f"{len(documents)} documents for an index of {len(index)} vectors; they must be as many"
            )
        self.model = model
        self.index = index
        self.documents = documents

    @classmethod
    def from_documents(cls, model: DualEncoder, documents: Sequence[str], **options: Any) -> Retriever:
        """Encode and index some texts.

        Parameters
        ----------
        model : DualEncoder
        documents : sequence of str
        **options
            Of `DualEncoder.encode_document`: ``batch_size``, ``show_progress``.
        """
        index = ExactIndex(model.width, encoder_revision=model.revision("document"))
        index.add(model.encode_document(documents, **options))
        return cls(model, index, documents)

    @overload  # a str is a sequence of str as well, which the checker cannot tell apart
    def search(self, queries: str, k: int = 10) -> list[Hit]: ...  # type: ignore[overload-overlap]

    @overload
    def search(self, queries: Sequence[str], k: int = 10) -> list[list[Hit]]: ...

    def search(self, queries: str | Sequence[str], k: int = 10) -> list[Hit] | list[list[Hit]]:
        """Return the k best documents, best first, ties by smaller id.

        Parameters
        ----------
        queries : str or sequence of str
        k : int
            Fewer hits come back from an index with fewer vectors.

        Returns
        -------
        list of Hit, or one such list a query
        """
        if isinstance(queries, str):
            return self.search([queries], k)[0]
        scores, ids = self.index.search(self.model.encode_query(queries), k=k)
        return [
            [
                Hit(int(i), float(s), self._document(int(i)))
                for i, s in zip(row, values, strict=True)
                if i >= 0
            ]
            for row, values in zip(ids, scores, strict=True)
        ]

    def _document(self, position: int) -> Any:
        return None if self.documents is None else self.documents[position]
