"""LlamaIndex: `CareEmbedding` for its indexes, `CareRetriever` for its query engines (extra ``llamaindex``)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from care_accel.encoding.base import BaseDualEncoder
from care_accel.errors import CareError, require_count
from care_accel.integrations.models import Model, describe_model, open_model
from care_accel.integrations.passages import find, open_source

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.schema import (
        NodeRelationship,
        NodeWithScore,
        QueryBundle,
        RelatedNodeInfo,
        TextNode,
    )
except ModuleNotFoundError as missing:
    raise CareError(f"{missing.name} is not installed: pip install 'care-accel[llamaindex]'") from None

if TYPE_CHECKING:
    from care_accel.integrations.passages import Source

__all__ = ["CareEmbedding", "CareRetriever"]


class CareEmbedding(BaseEmbedding):
    """A dual encoder as LlamaIndex's embedding: nodes by the document encoder, queries by the query encoder.

    Its settings (`to_dict`) name the model and the revision of its document encoder, so that a cache of an
    `IngestionPipeline` never takes vectors of one model for those of another.

    Parameters
    ----------
    model : DualEncoder, ServedDualEncoder, str, Path or dict
        A model, also one from `DualEncoder.from_server`; the folder or name of one; or a dict of arguments of
        `DualEncoder.from_pretrained`.
    embed_batch_size : int
        Texts that LlamaIndex gives at a time, at most 2,048.
    revision : str, optional
        Revision that the model's document encoder must have; read from settings.
    **options
        Fields of LlamaIndex's `BaseEmbedding`: ``callback_manager``, ``num_workers``, ``rate_limiter``.

    Raises
    ------
    CareError
        The model cannot be found or has another name or revision; an option is unknown; or an ``embeddings_cache`` is given, whose keys are texts
        without their role.

    Examples
    --------
    >>> CareEmbedding("care-mini").get_text_embedding("高血压患者应低盐饮食")  # doctest: +SKIP
    """

    model: str | dict[str, Any] = Field(description="The model: a folder or name, or arguments to load it.")
    _encoder: BaseDualEncoder = PrivateAttr()

    def __init__(
        self,
        model: Model = "care-mini",
        *,
        embed_batch_size: int = 64,
        model_name: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> None:
        # Pydantic would drop them.
        if unknown := sorted(set(options) - set(type(self).model_fields)):
            raise CareError(
                f"CareEmbedding has no option {unknown[0]!r}; arguments of the model go into model={{...}}, such as "
                "model={'model': 'care-mini', 'width': 64}"
            )
        if options.get("embeddings_cache") is not None:
            raise CareError(
                "embeddings_cache keeps one vector for a text, but queries and documents have different ones; leave it out "
                "(the cache of an IngestionPipeline is fine)"
            )
        encoder = open_model(model)
        if model_name not in (None, encoder.name):
            raise CareError(
                f"model_name is {model_name!r}, but the model is {encoder.name!r}; give it as model="
            )
        if revision is not None and revision != (found := encoder.revision("document")):
            raise CareError(
                f"the settings were written with document encoder {revision}, but {encoder.name} has {found}; load the model "
                "that they were written with, or embed the documents again"
            )
        try:
            described = describe_model(model)
        except CareError:  # it encodes all the same; settings that cannot be read again are no mistake of who does not write any
            described = encoder.name
        super().__init__(
            model=described,
            model_name=encoder.name,
            embed_batch_size=embed_batch_size,
            **options,
        )
        self._encoder = encoder

    @classmethod
    def class_name(cls) -> str:
        """Return the name of this class in settings."""
        return "CareEmbedding"

    def to_dict(self, **options: Any) -> dict[str, Any]:
        """Return the settings, as `from_dict` reads them."""
        settings: dict[str, Any] = super().to_dict(**options)
        return settings | {"revision": self._encoder.revision("document")}

    def _get_query_embedding(self, query: str) -> list[float]:
        found: list[float] = self._encoder.encode_query(query).tolist()
        return found

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_text_embedding(self, text: str) -> list[float]:
        found: list[float] = self._encoder.encode_document(text).tolist()
        return found

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found: list[list[float]] = self._encoder.encode_document(texts).tolist()
        return found

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


class CareRetriever(BaseRetriever):
    """A collection or a retriever as LlamaIndex's retriever.

    The node of a hit has its id, which is also its ``ref_doc_id``; the text, of a document in chunks the chunk that matched,
    with ``start_char_idx`` and ``end_char_idx``; and as metadata ``title`` and the fields.

    Parameters
    ----------
    source : Collection, Retriever, ServedRetriever, str or Path
        What is searched; a str or Path is the place of a collection.
    similarity_top_k : int
        Nodes per query.
    filter : str, optional
        As in `Collection.search`.
    **options
        Arguments of LlamaIndex's `BaseRetriever`: ``callback_manager``, ``verbose``.

    Raises
    ------
    CareError
        There is no such collection, or ``similarity_top_k`` is below 1; later, the filter is wrong.

    Examples
    --------
    >>> CareRetriever("articles", filter="department = '儿科'").retrieve("孩子不舒服")  # doctest: +SKIP
    """

    def __init__(
        self, source: Source, *, similarity_top_k: int = 10, filter: str | None = None, **options: Any
    ) -> None:
        require_count("similarity_top_k", similarity_top_k)
        self.source = open_source(source)
        self.similarity_top_k = similarity_top_k
        self.filter = filter
        super().__init__(**options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = find(self.source, query_bundle.query_str, self.similarity_top_k, self.filter)
        nodes = []
        for one in found:
            start, end = one.span or (None, None)
            document = RelatedNodeInfo(node_id=one.id)
            node = TextNode(
                id_=one.id,
                text=one.text,
                metadata=one.fields,
                start_char_idx=start,
                end_char_idx=end,
                relationships={NodeRelationship.SOURCE: document},
            )
            nodes.append(NodeWithScore(node=node, score=one.score))
        return nodes

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)
