"""mteb tasks from data folders, and the five tasks of CMedTEB."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mteb
from datasets import Dataset
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.benchmarks import Benchmark
from mteb.types import PromptType

from care_accel.errors import CareError
from care_accel.eval.data.reading import Pairs, Ranking
from care_accel.eval.folder import DataSet, Kind, find_sets

# Paper, table of tasks: Reranking and the two public tasks use mean average precision, CMedTEB-STS Pearson. Other STS
# sets use Spearman.
_MAIN_SCORES: dict[Kind, str] = {"retrieval": "ndcg_at_10", "reranking": "map_at_1000", "sts": "spearman"}
_TYPES: dict[Kind, str] = {"retrieval": "Retrieval", "reranking": "Reranking", "sts": "STS"}

PUBLIC_TASKS = ("CMedQAv1-reranking", "CMedQAv2-reranking")
NEW_TASKS: dict[Kind, str] = {
    "retrieval": "CMedTEB-Retrieval",
    "reranking": "CMedTEB-Reranking",
    "sts": "CMedTEB-STS",
}
_CMEDTEB_FOLDER = "cmedteb"


class RankingTask(AbsTaskRetrieval):
    """A retrieval or reranking task read from files."""

    source: DataSet
    data_loaded: bool = False

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Load the data unless it is loaded."""
        if self.data_loaded:
            return
        splits = {}
        for split in self.eval_splits:
            data = self.source.read(split)
            assert isinstance(data, Ranking)
            documents = data.documents.items()
            splits[split] = {
                "corpus": Dataset.from_dict(
                    {
                        "id": [key for key, _ in documents],
                        "title": [title for _, (title, _) in documents],
                        "text": [text for _, (_, text) in documents],
                    }
                ),
                "queries": Dataset.from_dict({"id": list(data.queries), "text": list(data.queries.values())}),
                "relevant_docs": data.relevant,
                "top_ranked": data.candidates,
            }
        self.dataset = {"default": splits}
        self.data_loaded = True


class PairTask(AbsTaskSTS):
    """An STS task read from files: sentence1 is the query, sentence2 the document."""

    source: DataSet
    data_loaded: bool = False
    input1_prompt_type = PromptType.query
    input2_prompt_type = PromptType.document

    def load_data(self, num_proc: int | None = None, **_: Any) -> None:
        """Load the data unless it is loaded."""
        if self.data_loaded:
            return
        splits, scores = {}, [0.0]
        for split in self.eval_splits:
            data = self.source.read(split)
            assert isinstance(data, Pairs)
            columns = {"sentence1": data.first, "sentence2": data.second, "score": data.scores}
            splits[split] = Dataset.from_dict(columns)
            scores += data.scores
        # Correlations do not depend on the scale; mteb only needs bounds that include all scores.
        self.min_score, self.max_score = min(scores), max(scores)
        self.dataset = {"default": splits}
        self.data_loaded = True


@dataclass(frozen=True)
class Skipped:
    """A task that is not run, and why."""

    task: str
    reason: str


def folder_tasks(
    data_dir: str | Path, split: str = "test", patterns: Sequence[str] = ()
) -> tuple[list[AbsTask], list[Skipped]]:
    """Return the data sets of a data folder as mteb tasks, named by their paths (``retrieval/cmedir``).

    Parameters
    ----------
    data_dir : str or Path
        See `care_accel.eval.folder` for the layout.
    split : str
    patterns : sequence of str
        Names, or shell patterns such as ``sts/*``; all data sets if empty.

    Returns
    -------
    tasks : list of mteb.AbsTask
    skipped : list of Skipped
        Reranking and STS sets without the split.

    Raises
    ------
    CareError
        The folder has no data set, a pattern matches none, a retrieval set lacks a file of the split, or all data sets
        were skipped.
    """
    sets = find_sets(Path(data_dir))
    selected = set(select([s.name for s in sets], patterns))
    tasks: list[AbsTask] = []
    skipped = []
    for source in sets:
        if source.name not in selected:
            continue
        if source.kind != "retrieval" and split not in source.splits:
            known = ", ".join(source.splits) or "none"
            skipped.append(Skipped(source.name, f"has no split {split!r} (has {known})"))
        else:
            tasks.append(_task(source, source.name, split, _MAIN_SCORES[source.kind]))
    if not tasks:
        raise CareError(f"{data_dir}: nothing to run: " + "; ".join(f"{s.task} {s.reason}" for s in skipped))
    return tasks, skipped


def cmedteb(source: str | Path, split: str = "test") -> Benchmark:
    """Return CMedTEB, the five tasks of the paper, as an mteb benchmark.

    Parameters
    ----------
    source : str or Path
        A folder, or the hub name of a data set, with ``retrieval/cmedteb``, ``reranking/cmedteb`` and ``sts/cmedteb``
        in the layout of `care_accel.eval.folder`. The two public tasks are mteb's own.
    split : str
        Split of the three new tasks.

    Raises
    ------
    CareError
        The folder is missing and the hub has no data set of that name, or a file is missing.
    """
    return Benchmark(name="CMedTEB", tasks=cmedteb_tasks(source, split), description=_CMEDTEB_DESCRIPTION)


def cmedteb_tasks(source: str | Path, split: str = "test", patterns: Sequence[str] = ()) -> list[AbsTask]:
    """Return the tasks of CMedTEB that match the patterns; see `cmedteb`."""
    names = select([*NEW_TASKS.values(), *PUBLIC_TASKS], patterns)
    tasks: list[AbsTask] = []
    for kind, name in NEW_TASKS.items():
        if name in names:
            score = "pearson" if kind == "sts" else _MAIN_SCORES[kind]
            folder = _data_folder(source) / kind / _CMEDTEB_FOLDER
            tasks.append(_task(DataSet(kind, folder), name, split, score))
    tasks += [mteb.get_task(name) for name in PUBLIC_TASKS if name in names]
    return tasks


def select(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match any pattern, or all names without patterns.

    Raises
    ------
    CareError
        A pattern matches no name.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise CareError(f"--tasks: {pattern!r} matches none of {', '.join(names)}")
    return [n for n in names if not patterns or any(fnmatch.fnmatchcase(n, p) for p in patterns)]


def _task(source: DataSet, name: str, split: str, main_score: str) -> AbsTask:
    metadata = TaskMetadata(
        name=name,
        description=f"{source.folder.name}, {source.kind}, read from files",
        # mteb requires a path and a revision; the revision is a hash of the files.
        dataset={"path": str(source.folder), "revision": source.digest(split)},
        type=_TYPES[source.kind],
        category="t2t",
        modalities=["text"],
        eval_splits=[split],
        eval_langs=["cmn-Hans"],
        main_score=main_score,
        domains=["Medical"],
    )
    base = PairTask if source.kind == "sts" else RankingTask
    # mteb reads the metadata from the class, so every data set gets its own class.
    return type(base.__name__, (base,), {"metadata": metadata, "source": source})()


def _data_folder(source: str | Path) -> Path:
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), repo_type="dataset"))
    except Exception as cause:  # connection, authorisation, name and cache errors of several libraries
        reason = " ".join(str(cause).split())[:200]
        raise CareError(
            f"{source}: no such folder, and the download from the hub failed ({reason}); where the hub is out of reach set "
            "HF_ENDPOINT to a mirror, or give a downloaded folder"
        ) from None


_CMEDTEB_DESCRIPTION = (
    "Chinese medical text embedding: retrieval, reranking and synonym-sensitive similarity with labels "
    "agreed on by three LLMs, and two public reranking sets of patients' questions (arXiv 2604.10937)."
)
