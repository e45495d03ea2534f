"""What a collection of a given size costs: memory, disk, GPU-hours, parts, commits and network, by arithmetic.

Every constant is measured in this project or cited; `CONSTANTS` has them with their sources.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from care_accel.errors import CareError

GB = 1e9
HOUR = 3600.0


class Constant(NamedTuple):
    """A number of the arithmetic, and where it comes from."""

    value: float
    source: str


_HERE = "measured on one core of an AMD EPYC with AVX-512 VNNI, 2026-11-30"
CONSTANTS = {
    "index_bytes_a_value": Constant(
        5.75, "ExactIndex: float32, int8 codes, and 4-bit codes with bounds of a large index"
    ),
    "index_bytes_a_vector": Constant(40, "ExactIndex: 28 and, of a large index, 12 bytes"),
    "codes_bytes_a_value": Constant(1.75, "the same with the vectors mapped from disk"),
    "operations_a_token_and_parameter": Constant(
        2, "a forward pass: a multiplication and an addition a weight"
    ),
    "gpu_operations_a_second": Constant(989e12, "NVIDIA's data sheet of the H200: dense bfloat16"),
    "gpu_use": Constant(0.4, "an assumption, to be measured with your model and lengths"),
    "tokens_a_part": Constant(4e6, "care_accel.cluster.plan"),
    "least_tokens_a_part": Constant(20_000, "care_accel.cluster.plan"),
    "parts_of_a_small_corpus": Constant(64, "care_accel.cluster.plan"),
    "rows_a_commit": Constant(4e6, "care_accel.cluster.folding, at most"),
    "least_rows_a_commit": Constant(100_000, "care_accel.cluster.folding"),
    "share_a_commit": Constant(0.25, "care_accel.cluster.folding: of the rows that are there"),
    "commit_seconds": Constant(0.05, f"a commit of ten fragments of 50,000 x 384, {_HERE}"),
    "compare_seconds_a_row": Constant(
        5e-7, f"4,000,000 ids looked for among 16,000,000 rows take 8 s, {_HERE}"
    ),
    "written_bytes_a_second": Constant(135e6, f"500,000 x 384 written by a worker in 5.7 s, {_HERE}"),
    "scan_bytes_a_value": Constant(1, "int8 codes: what the rough scan of a batch reads of a shard"),
}


@dataclass(frozen=True)
class Estimate:
    """What a collection costs.

    Attributes
    ----------
    documents, rows : int
        Documents, and their chunks.
    shards, workers : int
    vector_bytes, disk_bytes : float
        Of the vectors in the table, and of table and index of all shards with what else is given.
    memory_bytes : float
        Resident memory of a shard, with its vectors in memory.
    mapped_memory_bytes : float
        The same with the vectors on disk, mapped.
    scan_seconds : float or None
        One pass over a shard's codes, at the memory_bandwidth that is given.
    tokens : float
    worker_hours : float
        Of encoding and writing, by all workers together.
    hours : float
        Wall-clock time of encoding, with all workers.
    part_seconds : float
        Of one part on one worker: what the death of a worker costs at most.
    parts, commits : int
    commit_hours : float
        Time in which the driver reads ids and commits, beside the workers.
    network_bytes_a_second : float
        Of vectors, that all workers write together.
    answer_bytes : float
        That the router gets for one query from all shards.
    """

    documents: int
    rows: int
    shards: int
    workers: int
    vector_bytes: float
    disk_bytes: float
    memory_bytes: float
    mapped_memory_bytes: float
    scan_seconds: float | None
    tokens: float
    worker_hours: float
    hours: float
    part_seconds: float
    parts: int
    commits: int
    commit_hours: float
    network_bytes_a_second: float
    answer_bytes: float


def estimate(
    documents: float,
    width: int,
    *,
    tokens_per_document: float = 350,
    chunks_per_document: float = 1,
    bytes_per_document: float | None = None,
    shards: int = 1,
    workers: int = 1,
    model_parameters: float | None = None,
    model_tokens_per_second: float | None = None,
    memory_bandwidth: float | None = None,
    k: int = 10,
) -> Estimate:
    """Estimate what a collection costs.

    Parameters
    ----------
    documents : float
    width : int
        Values of a vector.
    tokens_per_document : float
    chunks_per_document : float
        Vectors of a document.
    bytes_per_document : float, optional
        Of text and fields on disk; by default 3 bytes a token, as of Chinese text in UTF-8.
    shards : int
        Machines that each hold a part of the index.
    workers : int
        That encode, such as GPUs.
    model_parameters : float, optional
        Of the document network: its speed by arithmetic, see `CONSTANTS`.
    model_tokens_per_second : float, optional
        Instead: the measured speed of one worker.
    memory_bandwidth : float, optional
        Of a shard's memory, in bytes a second: for the time of one scan.
    k : int
        Hits of a query.

    Raises
    ------
    CareError
        A number is not positive, or neither or both of ``model_parameters`` and ``model_tokens_per_second`` are given.
    """
    given = {
        "documents": documents,
        "width": width,
        "tokens_per_document": tokens_per_document,
        "chunks_per_document": chunks_per_document,
        "bytes_per_document": bytes_per_document,
        "shards": shards,
        "workers": workers,
        "model_parameters": model_parameters,
        "model_tokens_per_second": model_tokens_per_second,
        "memory_bandwidth": memory_bandwidth,
        "k": k,
    }
    for name, value in given.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise CareError(f"{name} is {value:g}; it must be a number above 0")
    if (model_parameters is None) == (model_tokens_per_second is None):
        raise CareError(
            "give the speed of encoding by one of model_tokens_per_second, as measured, and model_parameters"
        )
    if chunks_per_document < 1:
        raise CareError(f"chunks_per_document is {chunks_per_document:g}; a document has one vector at least")
    rows = round(documents * chunks_per_document)
    if shards > rows:
        raise CareError(f"shards is {shards:,} for {rows:,} vectors; give fewer")
    values = {name: constant.value for name, constant in CONSTANTS.items()}
    tokens = documents * tokens_per_document
    if model_tokens_per_second is None:
        assert model_parameters is not None
        operations = values["operations_a_token_and_parameter"] * model_parameters
        model_tokens_per_second = values["gpu_operations_a_second"] * values["gpu_use"] / operations
    vector_bytes = 4.0 * rows * width
    seconds = tokens / model_tokens_per_second + vector_bytes / values["written_bytes_a_second"]
    text_bytes = documents * (3 * tokens_per_document if bytes_per_document is None else bytes_per_document)
    in_shard = math.ceil(rows / shards)
    overhead = values["index_bytes_a_vector"]
    memory = in_shard * (values["index_bytes_a_value"] * width + overhead)
    part_tokens = min(
        max(tokens / values["parts_of_a_small_corpus"], values["least_tokens_a_part"]),
        values["tokens_a_part"],
    )
    commits, commit_seconds = _commits(rows, values)
    return Estimate(
        documents=round(documents),
        rows=rows,
        shards=shards,
        workers=workers,
        vector_bytes=vector_bytes,
        # The index repeats the texts, for hits.
        disk_bytes=vector_bytes + 2 * text_bytes + rows * memory / in_shard,
        memory_bytes=memory,
        mapped_memory_bytes=in_shard * (values["codes_bytes_a_value"] * width + overhead),
        scan_seconds=None
        if memory_bandwidth is None
        else in_shard * width * values["scan_bytes_a_value"] / memory_bandwidth,
        tokens=tokens,
        worker_hours=seconds / HOUR,
        hours=seconds / HOUR / workers,
        part_seconds=seconds * part_tokens / tokens,
        parts=max(1, math.ceil(tokens / part_tokens)),
        commits=commits,
        commit_hours=commit_seconds / HOUR,
        network_bytes_a_second=vector_bytes / seconds * workers,
        # A score in float64 and a position, and the router's own vector to each shard.
        answer_bytes=shards * (16.0 * k + 4.0 * width),
    )


def _commits(rows: int, values: dict[str, float]) -> tuple[int, float]:
    """Return the number of commits of a new collection, and the seconds that they take; see `cluster.folding`."""
    there, commits, seconds = 0, 0, 0.0
    while there < rows:
        wanted = max(values["least_rows_a_commit"], values["share_a_commit"] * there)
        seconds += there * values["compare_seconds_a_row"] + values["commit_seconds"]
        there += round(min(wanted, values["rows_a_commit"], rows - there))
        commits += 1
    return commits, seconds


def lines(found: Estimate) -> list[tuple[str, str]]:
    """Return what an estimate says, as names and values for a reader."""
    made = [
        ("vectors", f"{found.rows:,} of {found.documents:,} documents"),
        (
            "vectors on disk",
            f"{found.vector_bytes / GB:,.1f} GB; with texts and the index {found.disk_bytes / GB:,.1f} GB",
        ),
        (
            "memory of a shard",
            f"{found.memory_bytes / GB:,.1f} GB ({found.shards} of them), or {found.mapped_memory_bytes / GB:,.1f} GB with the "
            "vectors mapped from a fast disk",
        ),
    ]
    if found.scan_seconds is not None:
        made.append(
            ("a scan of a shard", f"{1e3 * found.scan_seconds:,.1f} ms for one query, or a batch of a few")
        )
    made += [
        ("tokens", f"{found.tokens:,.3g}"),
        (
            "encoding",
            f"{found.worker_hours:,.1f} worker-hours: {found.hours:,.1f} hours with {found.workers}",
        ),
        ("parts", f"{found.parts:,}, of {found.part_seconds:,.0f} s each: what a death costs at most"),
        (
            "commits",
            f"{found.commits:,}; the driver reads ids and commits for {found.commit_hours:,.2f} hours beside the workers",
        ),
        ("written by all workers", f"{found.network_bytes_a_second / 1e6:,.2f} MB a second of vectors"),
        ("between router and shards", f"{found.answer_bytes / 1e3:,.1f} kB a query"),
    ]
    return made
