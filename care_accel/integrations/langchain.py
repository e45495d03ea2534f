"""LangChain: `CareEmbeddings` for its vector stores, `CareRetriever` for its chains (extra ``langchain``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from care_accel.errors import CareError, require_count
from care_accel.integrations.models import Model, open_model
from care_accel.integrations.passages import find, open_source

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import run_in_executor
except ModuleNotFoundError as missing:
    raise CareError(f"{missing.name} is not installed: pip install 'care-accel[langchain]'") from None

if TYPE_CHECKING:
    from care_accel.integrations.passages import Source

__all__ = ["CareEmbeddings", "CareRetriever"]


class CareEmbeddings(Embeddings):
    """A dual encoder as LangChain's embeddings: documents by the document encoder, queries by the query encoder.

    Parameters
    ----------
    model : DualEncoder, ServedDualEncoder, str, Path or dict
        A model, also one from `DualEncoder.from_server`; the folder or name of one; or a dict of arguments of
        `DualEncoder.from_pretrained`.
    batch_size : int
        Maximum texts per batch.
    show_progress : bool
        Show a progress bar while documents are encoded.

    Raises
    ------
    CareError
        The model cannot be found.

    Attributes
    ----------
    model : DualEncoder or ServedDualEncoder

    Examples
    --------
    >>> CareEmbeddings("care-mini").embed_query("高血压怎么治")  # doctest: +SKIP
    """

    def __init__(
        self, model: Model = "care-mini", *, batch_size: int = 64, show_progress: bool = False
    ) -> None:
        self.model = open_model(model)
        self.batch_size = batch_size
        self.show_progress = show_progress

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Encode documents: ``n`` lists of ``width`` values, those of `DualEncoder.encode_document`.

        Raises
        ------
        CareError
            One text instead of a list is given, or an item is no text.
        """
        if isinstance(texts, str):
            raise CareError("texts are a str; give a list of documents, or embed a query with embed_query")
        vectors = self.model.encode_document(
            texts, batch_size=self.batch_size, show_progress=self.show_progress
        )
        found: list[list[float]] = vectors.tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """Encode a query: ``width`` values, those of `DualEncoder.encode_query`."""
        found: list[float] = self.model.encode_query(text).tolist()
        return found


class CareRetriever(BaseRetriever):
    """A collection or a retriever as LangChain's retriever.

    The `Document` of a hit has its own id; the text, of a document in chunks the chunk that matched; and as metadata ``id``,
    ``score``, ``title``, the fields, and ``span`` (start and end of the chunk in the document, in characters). A field of the
    same name as one of these is left out.

    Parameters
    ----------
    source : Collection, Retriever, ServedRetriever, str or Path
        What is searched; a str or Path is the place of a collection.
    k : int
        Documents per query. `invoke` takes another one as a keyword.
    filter : str, optional
        As in `Collection.search`. `invoke` takes another one as a keyword.
    **options
        Fields of LangChain's `BaseRetriever`: ``tags``, ``metadata``, ``name``.

    Raises
    ------
    CareError
        There is no such collection, ``k`` is below 1, or an option is unknown; later, the filter is wrong.

    Examples
    --------
    >>> CareRetriever("articles", k=3).invoke("孩子不舒服", filter="department = '儿科'")  # doctest: +SKIP
    """

    source: Any
    k: int = 10
    filter: str | None = None

    def __init__(self, source: Source, *, k: int = 10, filter: str | None = None, **options: Any) -> None:
        # Pydantic would drop a misspelt filter, and all documents were searched.
        if unknown := sorted(set(options) - set(type(self).model_fields)):
            raise CareError(
                f"CareRetriever has no option {unknown[0]!r}; it has k, filter, tags, metadata and name"
            )
        require_count("k", k)
        super().__init__(source=open_source(source), k=k, filter=filter, **options)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: str | None = None,
    ) -> list[Document]:
        return self._search(query, k, filter)

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: str | None = None,
    ) -> list[Document]:
        # LangChain's own does not hand on the keywords.
        found: list[Document] = await run_in_executor(None, self._search, query, k, filter)
        return found

    def _search(self, query: str, k: int | None, filter: str | None) -> list[Document]:
        return [
            Document(
                id=one.id,
                page_content=one.text,
                metadata=one.fields
                | {"id": one.id, "score": one.score}
                | ({"span": list(one.span)} if one.span else {}),
            )
            for one in find(
                self.source,
                query,
                self.k if k is None else k,
                self.filter if filter is None else filter,
            )
        ]
