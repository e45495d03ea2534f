"""A collection that is asked for a recall: searched approximately where that was measured to be faster."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal, overload

from care_accel.collection.reading import OpenCollection, State
from care_accel.collection.storage.table import Table
from care_accel.collection.versions import structure as structures
from care_accel.collection.versions.cache import not_saved
from care_accel.collection.versions.ranking import deepest
from care_accel.collection.versions.searching import Searcher
from care_accel.collection.versions.snapshot import Snapshot
from care_accel.collection.versions.structure import StoredStructure
from care_accel.encoding.base import checked_texts
from care_accel.errors import CareError, require_count
from care_accel.index.approximate import Choice, Measured, RecallWatch
from care_accel.index.approximate.arguments import checked_recall
from care_accel.index.approximate.building.questions import require_enough, sample_size
from care_accel.index.approximate.low_priority import in_background
from care_accel.index.approximate.watching import EVERY

log = logging.getLogger(__name__)

RECALL, K = 0.99, 10
Mode = Literal["exact", "auto", "stored"]
_MODES = ("exact", "auto", "stored")


class ApproximateCollection(OpenCollection):
    """The parts of a `Collection` that search approximately.

    Attributes
    ----------
    uri : str
    manifest : Manifest
        Model, chunking and other properties that never change.
    """

    def __init__(
        self, table: Table, *, index: str = "exact", recall: float | None = None, **options: Any
    ) -> None:
        super().__init__(table, **options)
        if index not in _MODES:
            raise CareError(f"index is {index!r}; it must be one of {', '.join(map(repr, _MODES))}")
        if recall is not None and index != "auto":
            raise CareError(f"a recall needs index='auto', but index is {index!r}")
        self._mode = index
        self._recall = None if recall is None else checked_recall(recall)
        if self._recall is not None:  # told now, not once there are many documents
            require_enough(sample_size(self._recall), self._recall, K, given=False)
        self._folder = self._cache.folder / structures.FOLDER
        self._structure: StoredStructure | None = None
        self._seen: tuple[int, int] | None = None
        self.is_kept = True
        self._watch: RecallWatch | None = None

    @property
    def choice(self) -> Choice | None:
        """How the search was chosen (``print(choice.text())``); None if it was not chosen but is exact."""
        return None if self._structure is None else self._structure.choice

    @property
    def stale(self) -> bool:
        """Whether so much was added and deleted since the choice (a fifth) that it should be made again: `choose_index`.

        Hits stay as good: what was added is scanned exactly beside the structure. But a search takes longer than it has to.
        """
        if self._structure is None:
            return False
        searcher = self.searcher()
        if searcher.found_by is not None:
            return searcher.found_by.stale
        return self._structure.outgrown(searcher.snapshot.index.alive)

    def explain(self) -> str:
        """Return why it is searched as it is, in one line."""
        searcher = self.searcher()
        if self._on_gpu:
            return f"every search is an exact scan on {self._options['device']}"
        if self._structure is None:
            return {
                "exact": "every search is an exact scan: the collection was opened with index='exact'",
                "auto": "every search is an exact scan: nothing was chosen for this version",
                "stored": "every search is an exact scan: nothing else was chosen by care-accel collection index",
            }[self._mode]
        beside = 0 if searcher.found_by is None else searcher.found_by.beside
        parts = [self._structure.choice.why]
        if beside:
            parts.append(f"{beside:,} vectors written since are scanned exactly")
        if self.stale:
            parts.append("much was added or deleted since: rebuild_index()")
        return "; ".join(parts)

    def choose_index(
        self,
        recall: float = RECALL,
        k: int = K,
        *,
        queries: Sequence[str] | None = None,
        memory: int | str | None = None,
        budget: float | str = "5 min",
        seed: int = 0,
        show_progress: bool = False,
    ) -> Choice:
        """Choose the fastest search that has a recall, exact or approximate, by measuring on this machine; store it and use it.

        It is kept beside the derived index, also for others that open the collection with ``index="auto"`` or ``"stored"``. Searches
        go on meanwhile, and so may this object's changes.

        Parameters
        ----------
        recall : float
            Between 0 and 1.
        k : int
            For searches of so many hits at most; a search for more is exact. Of a collection of chunks the recall is that of the
            3 k best chunks, of one with a lexical index that of as many as are fused.
        queries : sequence of str, optional
            Real queries; see `ApproximateIndex.build` for how many. They are not stored.
        memory, budget, seed, show_progress
            As in `ApproximateIndex.build`.

        Returns
        -------
        Choice

        Raises
        ------
        CareError
            As in `ApproximateIndex.build`; or the collection is open on a GPU, or at an earlier version.
        """
        if self._on_gpu:
            raise CareError(
                "a collection is searched approximately on the processor only; open it with device='cpu'"
            )
        if self._pinned:
            raise CareError(f"version {self.version} was opened; open the collection without a version")
        recall = checked_recall(recall)
        require_count("k", k)
        texts = None if queries is None else checked_texts(queries)
        if texts is not None and not texts:
            raise CareError(
                "there are no queries; give some, or none at all to have them made from documents"
            )
        options = {"memory": memory, "budget": budget, "seed": seed, "show_progress": show_progress}
        with self._changing:
            mode, begun = self._mode, self._state
            self._mode = "stored"  # nothing is chosen on the way to the first search
            snapshot = self.searcher().snapshot
        try:
            made = self._build(snapshot, recall, k, texts, **options)
        except BaseException:
            with self._changing:
                self._mode = mode
                if begun.searcher is None and mode != "stored":  # what was prepared is not for this mode
                    self._state, self._structure, self._seen = State(self._state.table, None), None, None
            raise
        with self._changing:
            self._keep(made)
            self._attach_again()
        return made.choice

    @overload
    def rebuild_index(
        self,
        *,
        queries: Sequence[str] | None = ...,
        show_progress: bool = ...,
        background: Literal[False] = ...,
    ) -> Choice: ...

    @overload
    def rebuild_index(
        self, *, queries: Sequence[str] | None = ..., show_progress: bool = ..., background: Literal[True]
    ) -> Future[Choice]: ...

    def rebuild_index(
        self,
        *,
        queries: Sequence[str] | None = None,
        show_progress: bool = False,
        background: bool = False,
    ) -> Choice | Future[Choice]:
        """Choose again what `choose_index` chose, for the documents that are there now and with the same arguments.

        Parameters
        ----------
        queries, show_progress
            As in `choose_index`.
        background : bool
            Return at once, and choose on a thread of low priority. Searches go on with the old choice until the new one is there.

        Returns
        -------
        Choice
            In the background a `concurrent.futures.Future` with it, or with the error.

        Raises
        ------
        CareError
            Nothing was chosen so far; and as in `choose_index`.
        """
        structure = self._structure or self._load(self._state.table)
        if structure is None:
            raise CareError(f"{self.uri}: nothing was chosen so far; choose with a recall first")
        asked = structure.choice
        options: dict[str, Any] = {name: asked.options.get(name) for name in ("memory", "budget")}
        again = partial(
            self.choose_index,
            asked.asked,
            structure.k,
            queries=queries,
            seed=asked.seed,
            show_progress=show_progress,
            **options,
        )
        return in_background(again, "choice") if background else again()

    def forget_index(self) -> None:
        """Search exactly from now on, and remove what `choose_index` stored."""
        with self._changing:
            structures.remove(self._folder)
            self._mode, self._structure, self._seen = "stored", None, None
            self._attach_again()

    def watch(self, watch: RecallWatch | None = None, *, every: int = EVERY) -> RecallWatch:
        """Answer every ``every``-th query that is searched approximately exactly as well; see `ApproximateIndex.watch`."""
        with self._changing:
            self._watch = watch or RecallWatch(every)
            self._attach_again()
            return self._watch

    @property
    def observed(self) -> Measured | None:
        """The recall in use, by `watch`; None if it was not called, or no query was checked."""
        return None if self._watch is None else self._watch.observed

    def refresh(self) -> bool:
        """See the newest version and choice from now on; return whether there was one. Searches that have begun end on the old one."""
        changed = super().refresh()
        if self._mode == "exact" or self._state.searcher is None:
            return changed
        with self._changing:
            now = structures.identity(self._folder)
            # An own choice outlives its files, which may be thrown away.
            if now == self._seen or (now is None and self._mode == "auto"):
                return changed
            self._seen, found = now, self._load(self._state.table)
            if self._mode == "auto" and not self._is_asked_for(found):
                return changed
            self._structure = found
            self._attach_again()
            return True

    @property
    def _on_gpu(self) -> bool:
        return bool(self._options["device"] != "cpu")

    def _prepared(self, table: Table, snapshot: Snapshot) -> Searcher:
        if self._mode == "exact" or self._on_gpu:
            return super()._prepared(table, snapshot)
        if self._structure is None:
            now = structures.identity(self._folder)
            if now != self._seen:
                self._seen, self._structure = now, self._load(table)
            if self._mode == "auto" and not self._pinned and not self._serves(snapshot):
                made = self._build(snapshot, self._recall or RECALL, K, None)
                self._keep(made)
        if self._structure is None:
            return super()._prepared(table, snapshot)
        return Searcher(table, snapshot, self.manifest, self._structure.attached(snapshot, self._watch))

    def _serves(self, snapshot: Snapshot) -> bool:
        """Return whether what is stored is what was asked for; an exact scan of far fewer documents is not."""
        stored = self._structure
        if stored is None or not self._is_asked_for(stored):
            return False
        return stored.finder is not None or not stored.outgrown(snapshot.index.alive)

    def _is_asked_for(self, structure: StoredStructure | None) -> bool:
        return structure is not None and self._recall in (None, structure.choice.asked)

    def _build(
        self, snapshot: Snapshot, recall: float, k: int, texts: Sequence[str] | None, **options: Any
    ) -> StoredStructure:
        vectors = None if texts is None else self.model.encoder("query").encode(list(texts))
        depth = deepest(k, chunked=self.manifest.chunk_tokens is not None, lexical=self.manifest.lexical)
        made = StoredStructure.build(snapshot, recall, k, depth, vectors, **options)
        log.info("%s: %s", self.uri, made.choice.why)
        return made

    def _keep(self, made: StoredStructure) -> None:
        self._structure = made
        self.is_kept = True
        try:
            self._cache.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            made.save(self._folder, self.manifest)
        except (OSError, CareError) as cause:
            self.is_kept = False
            log.warning(not_saved(self._folder, "the choice", cause))
        self._seen = structures.identity(self._folder)

    def _load(self, table: Table) -> StoredStructure | None:
        if structures.identity(self._folder) is None:
            return None
        try:
            return StoredStructure.load(self._folder, self.manifest, table)
        except (CareError, OSError) as problem:  # it may be replaced or removed right now
            log.warning("%s is not used: %s", self._folder, problem)
            return None

    def _attach_again(self) -> None:
        """Search the same version by what is chosen now."""
        state = self._state
        if state.searcher is not None:
            self._state = State(state.table, self._prepared(state.table, state.searcher.snapshot))
