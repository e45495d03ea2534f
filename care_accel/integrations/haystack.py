"""Haystack: embedders of both roles, and `CareRetriever` over a collection (extra ``haystack``)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_accel.encoding.base import BaseDualEncoder
from care_accel.errors import CareError, require_count
from care_accel.integrations.haystack_filters import sql_of
from care_accel.integrations.models import Model, describe_model, open_model
from care_accel.integrations.passages import find, open_source

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ModuleNotFoundError as missing:
    raise CareError(f"{missing.name} is not installed: pip install 'care-accel[haystack]'") from None

if TYPE_CHECKING:
    from care_accel.integrations.passages import Source

__all__ = ["CareDocumentEmbedder", "CareRetriever", "CareTextEmbedder"]


@component
class CareTextEmbedder:
    """Embeds a query with the query encoder of a dual encoder.

    Parameters
    ----------
    model : DualEncoder, ServedDualEncoder, str, Path or dict
        A model, also one from `DualEncoder.from_server`; the folder or name of one; or a dict of arguments of
        `DualEncoder.from_pretrained`. A name is opened by `warm_up`.
    """

    def __init__(self, model: Model = "care-mini") -> None:
        self.model = model
        self._encoder: BaseDualEncoder | None = None

    def warm_up(self) -> None:
        """Load the query encoder.

        Raises
        ------
        CareError
            The model cannot be found.
        """
        if self._encoder is None:
            encoder = open_model(self.model)
            encoder.encoder("query")
            self._encoder = encoder

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Encode a query.

        Parameters
        ----------
        text : str

        Returns
        -------
        dict
            ``embedding``: ``width`` values, those of `DualEncoder.encode_query`.

        Raises
        ------
        CareError
            It is no text, or the model cannot be found.
        """
        if not isinstance(text, str):
            raise CareError(f"text is a {type(text).__name__}; embed documents with CareDocumentEmbedder")
        self.warm_up()
        assert self._encoder is not None
        return {"embedding": self._encoder.encode_query(text).tolist()}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings; the model by its name or arguments."""
        settings: dict[str, Any] = default_to_dict(self, model=describe_model(self.model))
        return settings

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CareTextEmbedder:
        """Return a component with these settings."""
        made: CareTextEmbedder = default_from_dict(cls, data)
        return made


@component
class CareDocumentEmbedder:
    """Embeds documents with the document encoder of a dual encoder.

    Parameters
    ----------
    model : DualEncoder, ServedDualEncoder, str, Path or dict
        As in `CareTextEmbedder`.
    batch_size : int
        Maximum texts per batch.
    progress_bar : bool
        Show a progress bar.
    meta_fields_to_embed : list of str, optional
        Metadata in front of the content: ``["title"]`` gives the vectors that a `Collection` has of rows with titles.
    embedding_separator : str
        Between these and the content.

    Raises
    ------
    CareError
        ``batch_size`` is below 1.
    """

    def __init__(
        self,
        model: Model = "care-mini",
        batch_size: int = 64,
        progress_bar: bool = True,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = " ",
    ) -> None:
        require_count("batch_size", batch_size)
        self.model = model
        self.batch_size = batch_size
        self.progress_bar = progress_bar
        self.meta_fields_to_embed = meta_fields_to_embed or []
        self.embedding_separator = embedding_separator
        self._encoder: BaseDualEncoder | None = None

    def warm_up(self) -> None:
        """Load the document encoder.

        Raises
        ------
        CareError
            The model cannot be found.
        """
        if self._encoder is None:
            encoder = open_model(self.model)
            encoder.encoder("document")
            self._encoder = encoder

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Encode documents.

        Parameters
        ----------
        documents : list of Document
            They stay as they are.

        Returns
        -------
        dict
            ``documents``: copies with embeddings of ``width`` values, those of `DualEncoder.encode_document`.

        Raises
        ------
        CareError
            They are no documents, or the model cannot be found.
        """
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise CareError("documents are no list of Document; embed a query with CareTextEmbedder")
        self.warm_up()
        assert self._encoder is not None
        vectors = self._encoder.encode_document(
            [self._text(one) for one in documents],
            batch_size=self.batch_size,
            show_progress=self.progress_bar,
        )
        embedded = [
            replace(one, embedding=vector) for one, vector in zip(documents, vectors.tolist(), strict=True)
        ]
        return {"documents": embedded}

    def _text(self, document: Document) -> str:
        content: str = document.content or ""
        leading = [document.meta.get(name) for name in self.meta_fields_to_embed]
        values = [str(value) for value in leading if value not in (None, "")]
        return self.embedding_separator.join([*values, content]).strip() if values else content

    def to_dict(self) -> dict[str, Any]:
        """Return the settings; the model by its name or arguments."""
        settings: dict[str, Any] = default_to_dict(
            self,
            model=describe_model(self.model),
            batch_size=self.batch_size,
            progress_bar=self.progress_bar,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )
        return settings

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CareDocumentEmbedder:
        """Return a component with these settings."""
        made: CareDocumentEmbedder = default_from_dict(cls, data)
        return made


@component
class CareRetriever:
    """Retrieves the documents of a collection for a query text; it encodes the query itself.

    The `Document` of a hit has its own id; the text, of a document in chunks the chunk that matched; the score; and as
    ``meta`` ``title``, the fields, and ``span`` (start and end of the chunk in the document, in characters).

    Parameters
    ----------
    source : Collection, Retriever, ServedRetriever, str or Path
        What is searched; a str or Path is the place of a collection, opened by `warm_up`. Only a collection can be written to
        settings.
    filters : dict or str, optional
        Haystack's metadata filters, or an expression as in `Collection.search`.
    top_k : int
        Documents per query.

    Raises
    ------
    CareError
        ``top_k`` is below 1, or the filters are wrong.
    """

    def __init__(self, source: Source, filters: dict[str, Any] | str | None = None, top_k: int = 10) -> None:
        require_count("top_k", top_k)
        sql_of(filters)
        self.source = source
        self.filters = filters
        self.top_k = top_k
        self._opened: Any = None

    def warm_up(self) -> None:
        """Open the collection.

        Raises
        ------
        CareError
            There is none.
        """
        if self._opened is None:
            self._opened = open_source(self.source)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | str | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Retrieve documents.

        Parameters
        ----------
        query : str
        filters : dict or str, optional
            Instead of the component's own.
        top_k : int, optional
            Instead of the component's own.

        Returns
        -------
        dict
            ``documents``: best first.

        Raises
        ------
        CareError
            The filters are wrong, ``top_k`` is below 1, or there is no collection.
        """
        self.warm_up()
        found = find(
            self._opened,
            query,
            self.top_k if top_k is None else top_k,
            sql_of(self.filters if filters is None else filters),
        )
        documents = [
            Document(
                id=one.id,
                content=one.text,
                meta=one.fields | ({"span": list(one.span)} if one.span else {}),
                score=one.score,
            )
            for one in found
        ]
        return {"documents": documents}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings; the collection by its place.

        Raises
        ------
        CareError
            The source is no collection.
        """
        place = self.source if isinstance(self.source, str | Path) else getattr(self.source, "uri", None)
        if place is None:
            raise CareError(
                f"a {type(self.source).__name__} cannot be written to settings; give a Collection or the folder of one"
            )
        settings: dict[str, Any] = default_to_dict(
            self, source=str(place), filters=self.filters, top_k=self.top_k
        )
        return settings

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CareRetriever:
        """Return a component with these settings."""
        made: CareRetriever = default_from_dict(cls, data)
        return made
