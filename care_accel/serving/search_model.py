"""Python backend model of the search: TEXT to IDS, SCORES and DOCUMENTS, encoder and scan in one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from care_accel.encoding import Task
from care_accel.serving.backend.encoders import TextVectors
from care_accel.serving.backend.hits import Filter, HitFinder
from care_accel.serving.backend.live_index import LiveIndex
from care_accel.serving.backend.open_collection import OpenCollection
from care_accel.serving.backend.open_index import OpenIndex
from care_accel.serving.backend.requests import respond
from care_accel.serving.backend.tensors import (
    Backend,
    array,
    column,
    read_tasks,
    read_texts,
    repeated,
    required,
    split,
)


class _ValidRequest(NamedTuple):
    """A validated request."""

    texts: list[str]
    tasks: list[Task]
    ks: list[int]
    filters: Sequence[Filter | None] | None


class SearchModel:
    """Python backend model ``search``.

    Requests that the server batched are encoded together and searched together. It does what an ensemble of
    ``query_encoder`` and ``scan`` does, without the way through the server between them, which takes longer than a scan
    or a small network. The price is memory: it loads a query encoder of its own, and documents of its own.

    Parameters in the configuration, as JSON: ``care`` (that of `LiveIndex` and `HitFinder`, and ``query_revision``, the
    revision of the query encoder), those of `TextVectors` and `LiveIndex`, ``queue`` and ``wait`` (see `Backlog`).
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load encoder and index, check them against the configuration, and warm up."""
        self.backend = Backend(args)
        try:
            self._load()
        except BaseException:
            self.backend.end()
            raise

    def _load(self) -> None:
        self._backlog = self.backend.backlog()
        self._finder = HitFinder(self.backend)
        self._live = LiveIndex(self.backend)
        self.backend.at_end(self._live.end)
        revision = self.backend.parameters["care"]["query_revision"]
        self._vectors = TextVectors(self.backend, "query", {"query": revision})

    def finalize(self) -> None:
        """Stop the reload thread and report the last metrics."""
        self.backend.end()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return hits or an error for each request."""
        return self._live.answer(
            len(requests),
            lambda index: respond(  # one index for the whole batch, even if it is reloaded meanwhile
                self.backend,
                self._backlog,
                requests,
                lambda request: self._read(request, index),
                lambda asked: self._answers(asked, index),
            ),
        )

    def _read(self, request: Any, index: OpenIndex | OpenCollection) -> _ValidRequest:
        inputs = self.backend.inputs(request)
        texts = read_texts(required(inputs, "TEXT").as_numpy(), empty=False)
        tasks = read_tasks(array(inputs, "TASK"), len(texts))
        ks = self._finder.read_ks(inputs, len(texts))
        return _ValidRequest(texts, tasks, ks, self._finder.read_filters(inputs, index, len(texts)))

    def _answers(self, asked: Sequence[_ValidRequest], index: OpenIndex | OpenCollection) -> list[Any]:
        texts = [text for one in asked for text in one.texts]
        vectors, tokens, times = self._vectors.encode(texts, [task for one in asked for task in one.tasks])
        hits, scan = self._finder.find(
            index,
            vectors,
            [one.ks for one in asked],
            texts if index.needs_texts else None,
            [one.filters for one in asked],
        )
        sizes = split(tokens, [len(one.texts) for one in asked])
        return [
            self.backend.answer(**outputs, TOKENS=column(some), TIMES=repeated((*times, scan), len(some)))
            for outputs, some in zip(hits, sizes, strict=True)
        ]
