"""The collection behind the gateway: reads in threads, writes one after another."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar

from care_accel.collection import Collection, Upserted
from care_accel.collection.storage.lance_errors import WriteConflict
from care_accel.encoding.base import BaseDualEncoder
from care_accel.encoding.runtimes.attempts import ServerError
from care_accel.errors import CareError, VersionRemoved
from care_accel.serving.gateway.documents.encoder import EncoderChanged
from care_accel.serving.gateway.documents.rows import Rows
from care_accel.serving.gateway.errors import ApiError, invalid
from care_accel.serving.gateway.upstream import as_api_error

log = logging.getLogger(__name__)

_T = TypeVar("_T")
# Writes that may wait for others: more would take the places of searches.
_MOST_WRITES = 8
_FIELDS_TTL_S = 30.0  # cache of the fields' values
# What the log may say of a failed write: messages of the table can hold ids and values.
_REASONS = ("the disk is full", "not writable or not readable", "newer release", "there is no collection")


class DocumentStore:
    """Documents of a collection.

    Parameters
    ----------
    collection : Collection
        For reading; it needs no model.
    connect : callable, optional
        Returns the inference server's dual encoder, whose document encoder makes the vectors of what is written; called
        by the first write. Without it nothing can be written.
    patience : float
        Seconds that a write waits for those before it.
    max_text : int
        Maximum bytes of a document that is not cut into chunks.
    """

    def __init__(
        self,
        collection: Collection,
        connect: Callable[[], BaseDualEncoder] | None = None,
        *,
        patience: float = 30.0,
        max_text: int = 100_000,
    ) -> None:
        self.writable = connect is not None
        self._reader, self._connect = collection, connect
        self._patience, self._max_text = patience, max_text
        self._writer: tuple[Collection, BaseDualEncoder] | None = None
        self._thread = ThreadPoolExecutor(1, "documents")
        self._turn = asyncio.Lock()
        self._writes = 0
        self._counting = asyncio.Lock()
        self._fields: tuple[float, dict[str, Any]] | None = None

    async def get(self, identifier: str) -> dict[str, Any] | None:
        """Return the row of a document in the newest version, None if there is none."""

        def read() -> dict[str, Any] | None:
            self._reader.refresh()
            found: dict[str, Any] | None = self._reader.get(identifier)
            return found

        return await _reading(read)

    async def fields(self) -> dict[str, Any]:
        """Return the fields, with their values where these are few; counted at most every half minute."""
        async with self._counting:
            if self._fields is None or monotonic() - self._fields[0] > _FIELDS_TTL_S:
                self._fields = (monotonic(), await _reading(self._count))
            return self._fields[1]

    def _count(self) -> dict[str, Any]:
        self._reader.refresh()
        if self._fields is not None and self._fields[1]["version"] == self._reader.version:
            return self._fields[1]
        version, values = self._reader.version, self._reader.field_values()
        fields = []
        for name, kind in self._reader.fields.items():
            field: dict[str, Any] = {"name": name, "type": kind}
            if name in values:
                field["values"] = [
                    {"value": value, "documents": count} for value, count in values[name].items()
                ]
            fields.append(field)
        return {"version": version, "fields": fields}

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of few places for writes, from when the body is there.

        Raises
        ------
        ApiError
            503 if there is none.
        """
        if self._writes >= _MOST_WRITES:
            raise _busy()
        self._writes += 1
        try:
            yield
        finally:
            self._writes -= 1

    @property
    def waiting(self) -> int:
        """Number of writes that wait for others."""
        return max(0, self._writes - 1)

    async def upsert(self, rows: Rows) -> Upserted:
        """Insert or replace documents; they are committed when this returns.

        Raises
        ------
        ApiError
            400 for a wrong row, and nothing is written. 409 or 503 if it cannot be written now, errors of the inference
            server as elsewhere.
        """
        return await self._write(lambda writer: self._upsert(writer, rows))

    def _upsert(self, writer: Collection, rows: Rows) -> Upserted:
        writer.refresh()
        typed = rows.typed(writer.fields)
        try:
            writer.check_rows(typed)
        except CareError as mistake:
            raise invalid(str(mistake), "documents", "invalid_document") from None
        if writer.manifest.chunk_tokens is None:
            typed.check_lengths(self._max_text)
        return writer.upsert(typed, commit_seconds=math.inf)

    async def delete(self, ids: list[str] | None, condition: str | None) -> tuple[int, int]:
        """Delete documents by their ids or by a filter; return how many, and the version.

        Raises
        ------
        ApiError
            400 for a wrong filter; else as `upsert`.
        """
        return await self._write(lambda writer: self._delete(writer, ids, condition))

    def _delete(self, writer: Collection, ids: list[str] | None, condition: str | None) -> tuple[int, int]:
        if condition is not None:
            writer.refresh()
            try:
                writer.count(condition)
            except VersionRemoved:  # by a compact meanwhile: no mistake of who asks
                raise
            except CareError as mistake:
                raise invalid(str(mistake), "filter", "invalid_filter") from None
        return writer.delete(ids, filter=condition), writer.version

    async def _write(self, work: Callable[[Collection], _T]) -> _T:
        """Run a write in its turn. One that has begun ends, whether or not its caller waits."""
        try:
            async with asyncio.timeout(self._patience):
                await self._turn.acquire()
        except TimeoutError:
            raise _busy() from None
        try:
            running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
            # An error that nobody waits for any more would be logged with its message, which may have an id.
            running.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.wait([running])  # unlike the future itself, this can be left
            return running.result()
        finally:
            self._turn.release()

    def _run(self, work: Callable[[Collection], _T]) -> _T:
        try:
            return work(self._open())
        except ServerError as error:
            raise as_api_error(error) from None
        except EncoderChanged:
            self._disconnect()  # the next write looks whether the new model is the collection's
            raise _wrong_model() from None
        except WriteConflict:
            raise ApiError(
                409,
                "write_conflict",
                "other writers kept changing the same documents; send the request again",
                headers={"Retry-After": "1"},
            ) from None
        except CareError as error:
            reason = next((reason for reason in _REASONS if reason in str(error)), "another reason")
            log.error("documents could not be written: %s", reason)
            raise ApiError(
                503,
                "not_written",
                "the documents could not be written, see the gateway's log; what was committed is whole, and the same "
                "request may be sent again",
            ) from None

    def _open(self) -> Collection:
        if self._writer is None:
            assert self._connect is not None
            model = self._connect()
            try:
                self._writer = Collection.open(self._reader.uri, model=model), model
            except CareError as problem:
                _close(model)
                if isinstance(problem, ServerError):
                    raise
                log.error("%s", problem)  # names the revisions and the folder
                raise _wrong_model() from None
        return self._writer[0]

    def _disconnect(self) -> None:
        if self._writer is not None:
            _close(self._writer[1])
            self._writer = None

    async def close(self) -> None:
        """Finish the write in work and close the connection to the server."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)
        self._disconnect()


async def _reading(read: Callable[[], _T]) -> _T:
    try:
        return await asyncio.to_thread(read)
    except CareError as error:
        reason = next((reason for reason in _REASONS if reason in str(error)), "another reason")
        log.error("documents could not be read: %s", reason)
        raise ApiError(
            503, "not_readable", "the documents cannot be read now, see the gateway's log"
        ) from None


def _close(model: BaseDualEncoder) -> None:
    if (close := getattr(model, "close", None)) is not None:
        close()


def _busy() -> ApiError:
    return ApiError(
        503, "overloaded", "too many writes are waiting; retry later", headers={"Retry-After": "1"}
    )


def _wrong_model() -> ApiError:
    return ApiError(
        503,
        "wrong_model",
        "the inference server has another document encoder than the one that made the collection; nothing was written",
    )
