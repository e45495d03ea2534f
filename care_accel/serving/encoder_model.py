"""Python backend model of an encoder: TEXT to EMBEDDING, batched over requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from care_accel.encoding import Role, Task
from care_accel.errors import CareError
from care_accel.serving.backend.background import Background
from care_accel.serving.backend.encoders import TextVectors
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


class EncoderModel:
    """Python backend model ``query_encoder`` and ``document_encoder``.

    Requests that the server batched are tokenised together and encoded in batches of similar length within a token
    budget. A vector does not depend on the other texts of its batch.

    Parameters in the configuration, as JSON: ``care`` (the encoder; see `care_accel.serving.repository.python_backend`),
    ``background`` (run at idle priority), ``queue`` and ``wait`` (see `Backlog`), and those of `TextVectors`.
    """

    role: Role

    def initialize(self, args: dict[str, str]) -> None:
        """Load the encoder, check it against the configuration, and warm it up."""
        self.backend = Backend(args)
        parameters = self.backend.parameters
        self._backlog = self.backend.backlog()
        # Documents are bulk work, queries are latency-critical.
        low_priority = parameters["background"] and self.backend.device == "cpu"
        self._background = Background() if low_priority else None
        revisions = {self.role: parameters["care"]["revision"]}
        self._vectors: TextVectors = self._compute(TextVectors, self.backend, self.role, revisions)
        # Only after loading: at idle priority, start-up on a busy machine would stall.
        if self._background is not None:
            self._background.lower_priority()

    def _compute(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run work, on the background thread if there is one."""
        return work(*arguments) if self._background is None else self._background.run(work, *arguments)

    def finalize(self) -> None:
        """Report the last metrics, and restore the priority so that the process can exit."""
        self.backend.end()
        if self._background is not None:
            self._background.restore_priority()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Return vectors or an error for each request."""
        return respond(self.backend, self._backlog, requests, self._read, self._answers)

    def _read(self, request: Any) -> _ValidRequest:
        # The server drops requests cancelled in its queue. Checking again here takes 0.1 ms, as long as a query of a
        # small network, so only documents are checked.
        if self.role == "document" and request.is_cancelled():
            raise CareError("the client cancelled the request")
        inputs = self.backend.inputs(request)
        texts = read_texts(required(inputs, "TEXT").as_numpy(), empty=self.role == "document")
        return _ValidRequest(texts, read_tasks(array(inputs, "TASK"), len(texts)))

    def _answers(self, asked: Sequence[_ValidRequest]) -> list[Any]:
        vectors, tokens, times = self._compute(
            self._vectors.encode,
            [text for one in asked for text in one.texts],
            [task for one in asked for task in one.tasks],
        )
        counts = [len(one.texts) for one in asked]
        return [
            self.backend.answer(EMBEDDING=rows, TOKENS=column(sizes), TIMES=repeated(times, len(sizes)))
            for rows, sizes in zip(split(vectors, counts), split(tokens, counts), strict=True)
        ]


class QueryEncoderModel(EncoderModel):
    """The query encoder as a model of the server."""

    role: Role = "query"


class DocumentEncoderModel(EncoderModel):
    """The document encoder as a model of the server."""

    role: Role = "document"
