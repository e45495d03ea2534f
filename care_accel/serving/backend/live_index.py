"""The index of a configuration, opened, and opened again when its folder is replaced or its collection changes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import numpy as np

from care_accel.collection.storage.layout import is_remote, names_collection
from care_accel.encoding.spec import Role
from care_accel.errors import CareError, VersionRemoved
from care_accel.index import ApproximateIndex, load_index
from care_accel.index.approximate import RecallWatch
from care_accel.index.approximate.watching import EVERY
from care_accel.index.cuda import require_cuda
from care_accel.index.protocol import MANIFESTS
from care_accel.retriever import MANIFEST, Retriever
from care_accel.serving.backend.embedded_documents import embedded_documents
from care_accel.serving.backend.open_collection import OpenCollection
from care_accel.serving.backend.open_index import OpenIndex
from care_accel.serving.backend.tensors import Backend

if TYPE_CHECKING:
    from care_accel.collection import Collection

# Interval in seconds at which the index folder is checked, at the cost of one stat call; and an object store, of a request.
_POLL_S, _POLL_STORE_S = 0.5, 2.0
# A batch is begun again for so long, each time over a newer version; so long are the first and the longest pause between.
_TRY_S = 5.0
_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_REMOVED = "the collection is compacted so often that no version stays long enough to be searched; try again"


@dataclass
class RecordedModel:
    """Identity of the dual encoder that made the index."""

    name: str
    width: int
    document: str

    def revision(self, role: Role) -> str:
        """Return the document encoder's hash."""
        return self.document


class LiveIndex:
    """The index of a configuration, reloaded without downtime when its folder is replaced.

    The old one serves until the new one (`ExactIndex.save`, `Retriever.save`) is loaded, and stays if the new one is
    incomplete or was made by another document encoder. A collection is followed: a commit is live within a second, and so is what
    ``care-accel collection index`` chooses. Vectors and codes are memory-mapped, so that processes that open one index share its
    pages; documents are in the memory of each.

    Of an approximate index every m-th query is answered exactly as well, on a thread of low priority: the recall is the metric
    ``care_recall``, which is 1 of an exact index and NaN before the first such query. ``care_recall_high`` is its upper bound and
    ``care_recall_promised`` what was asked for: the promise is broken where the first is below the second.

    Parameters of the configuration: ``care`` (name, width and revision of the document encoder), one of ``index`` (a folder of an
    index, a retriever or a collection, or the address of a collection in an object store, whose options are in the environment) and
    ``documents`` (an embedded data set, encoded at start-up with the model of ``load``), and optionally ``recall_every`` (m, by
    default 1,000).

    Parameters
    ----------
    backend : Backend

    Attributes
    ----------
    current : OpenIndex or OpenCollection
        Read it once for a batch.

    Raises
    ------
    CareError
        The index is missing or incomplete, or was made by another document encoder.
    """

    current: OpenIndex | OpenCollection

    def __init__(self, backend: Backend) -> None:
        known = backend.parameters["care"]
        self._backend = backend
        self._made_by = RecordedModel(known["name"], int(known["width"]), known["revision"])
        self._device = scan_device(backend)
        self._refused = backend.counter("refused_indexes", "Replaced indexes that could not be opened")
        self._reopened = backend.counter("reopened_indexes", "Replaced indexes that went live")
        checked = backend.counter(
            "recall_queries", "Queries that were answered exactly as well, to know the recall"
        )
        self._watch = RecallWatch(
            int(backend.parameters.get("recall_every", EVERY)),
            warn=backend.log,
            checked=lambda: checked.add(1),
        )
        self._stale = False
        self._refreshing = threading.Lock()
        self._ended = threading.Event()
        folder = backend.parameters.get("index")
        if folder is None:
            name = backend.parameters["documents"]
            self.current = OpenIndex(embedded_documents(backend, self._made_by, name))
        else:
            self._open_first(place_of(backend, folder))
        backend.gauge(
            "recall", "Recall of the newest queries that were answered exactly as well", self._recall
        )
        backend.gauge(
            "recall_high",
            "Upper bound of the mean recall, wrong with a probability of 5 %",
            self._recall_high,
        )
        backend.gauge(
            "recall_promised", "Recall that was asked for, 1 of an exact index", lambda: self.current.promised
        )

    def _open_first(self, place: str) -> None:
        self._place, self._folder = place, Path(place)
        self._seen = None
        self._collection = None
        if names_collection(place):
            self._collection = self._open_collection()
            self._show(self._collection)
        while self._seen is None and self._collection is None:
            self._seen, self.current = self._open()
        watch = self._watch_folder if self._collection is None else self._follow
        threading.Thread(target=watch, name="index", daemon=True).start()

    def end(self) -> None:
        """Stop watching the folder."""
        self._ended.set()

    def _open(self) -> tuple[tuple[int, int] | None, OpenIndex]:
        """Load the index and return its identity; None if it was replaced while loading, and may be inconsistent."""
        before = identity(self._folder)
        if (self._folder / MANIFEST).is_file():
            opened = Retriever.load(self._folder, self._made_by, device=self._device)
        else:
            opened = Retriever(self._made_by, load_index(self._folder, device=self._device))
        index = opened.index
        if isinstance(index, ApproximateIndex):
            index.watch(self._watch)
        return before if identity(self._folder) == before else None, OpenIndex(opened)

    def _open_collection(self) -> Collection:
        """Open the collection without its model, which is in this or in other processes; its revision is checked."""
        import_arrow()
        from care_accel.collection import Collection

        opened = Collection.open(self._place, device=self._device)
        found, made_by = opened.manifest.revision, self._made_by
        if found != made_by.document:
            raise CareError(
                f"{self._place}: its vectors were made by document encoder {found}, but {made_by.name} has "
                f"{made_by.document}; write the model repository with the model of the collection"
            )
        opened = Collection.open(self._place, device=self._device, index="stored")
        opened.watch(self._watch)
        return opened

    def _show(self, collection: Collection) -> None:
        """Search what a collection is now."""
        was_stale = self._stale
        self.current = OpenCollection(collection.searcher())
        self._stale = collection.stale
        if self._stale and not was_stale:
            self._backend.log(f"{collection.explain()}, or care-accel collection index --again")

    def _recall(self) -> float:
        return self._watch.recall if self.current.is_approximate else 1.0

    def _recall_high(self) -> float:
        if not self.current.is_approximate:
            return 1.0
        observed = self._watch.observed
        return float("nan") if observed is None else observed.high

    def answer(self, requests: int, batch: Callable[[OpenIndex | OpenCollection], list[Any]]) -> list[Any]:
        """Return the answers to a batch, all over one index.

        They are begun again over the newest version of the collection if the current one has been removed since the last look
        (``compact --keep-days 0``): what a new filter leaves is read from its table. Where versions are removed faster than a batch
        is answered, each request gets UNAVAILABLE after some seconds.

        Parameters
        ----------
        requests : int
            Number of requests of the batch.
        batch : callable
            Returns an answer for each, over an index.
        """
        end, pause = monotonic() + _TRY_S, 0.0
        while True:
            try:
                return batch(self.current)
            except VersionRemoved:
                if monotonic() + pause >= end:
                    return self._backend.overload(_REMOVED, requests)
            sleep(pause)
            pause = min(max(2 * pause, _PAUSE_S), _LONGEST_PAUSE_S)
            with suppress(CareError):  # the newest version is being removed as well
                self._refresh()

    def _refresh(self) -> None:
        """See the newest version of the collection, or another one in its place."""
        from care_accel.collection.storage.lance_errors import Replaced

        assert self._collection is not None
        with self._refreshing:
            try:
                changed = self._collection.refresh()
            except Replaced:
                self._collection, changed = self._open_collection(), True
            if changed:
                self._show(self._collection)
                self._reopened.add(1)

    def _follow(self) -> None:
        """See each new version of the collection, and another one in its place."""
        told = None
        while not self._ended.wait(_POLL_STORE_S if is_remote(self._place) else _POLL_S):
            try:
                self._refresh()
                told = None
            except Exception as failure:  # the thread must survive
                if told != (told := type(failure).__name__):  # once, not twice a second as long as it lasts
                    self._backend.log(f"the new version cannot be read, the old one stays live: {told}")
                    self._refused.add(1)

    def _watch_folder(self) -> None:
        while not self._ended.wait(_POLL_S):
            now = identity(self._folder)
            if now in (None, self._seen):  # the folder is missing between two renames
                continue
            try:
                seen, opened = self._open()
            except Exception as failure:  # the thread must survive
                if identity(self._folder) == now:
                    self._seen = now
                    self._backend.log(f"the new index is rejected, the old one stays live: {failure}")
                    self._refused.add(1)
                continue
            if seen is None:
                continue
            self._seen, self.current = seen, opened
            self._backend.log(f"new index loaded, {len(opened)} vectors")
            self._reopened.add(1)


def import_arrow() -> None:
    """Import Arrow where pandas is hidden (`care_accel.serving.tritonserver.install`).

    Arrow looks for pandas when it first reads an array, and takes one that is hidden for one that is broken. A pandas that
    cannot be imported is as good to it as none.
    """
    hidden = "pandas" in sys.modules and sys.modules["pandas"] is None
    if hidden:
        del sys.modules["pandas"]
    import pyarrow

    pyarrow.array(np.zeros(1)).to_pylist()
    if hidden:
        sys.modules["pandas"] = None  # type: ignore[assignment]


def place_of(backend: Backend, value: str) -> str:
    """Return the place of an index in a configuration: a folder as a path that can be opened here, or an address as it is."""
    return value if is_remote(value) else str(backend.path(value))


def scan_device(backend: Backend) -> str:
    """Return the device of the index: the instance's GPU if this build supports it, else the CPU."""
    if backend.device != "cpu":
        try:
            require_cuda(backend.device)
        except CareError as reason:
            backend.log(f"the scan runs on the CPU: {reason}")
            return "cpu"
    return backend.device


def identity(folder: Path) -> tuple[int, int] | None:
    """Return inode and modification time of a saved folder's manifest, which change on replacement; None if missing."""
    for name in (MANIFEST, *MANIFESTS):
        try:
            found = (folder / name).stat()
        except OSError:
            continue
        return found.st_ino, found.st_mtime_ns
    return None
