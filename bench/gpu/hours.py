"""GPU-hours of a corpus from what was measured: ``python -m bench.gpu.hours bench/results/<gpu>.json``.

Every row of tokens a second that `bench/gpu/test_gpu_documents.py` wrote in its newest run, and what `care-accel collection
estimate` makes of it. Writing vectors is counted, reading and downloading texts is not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

from bench.harness import record
from care_accel.collection.estimate import estimate
from care_accel.errors import CareError, exit_code
from care_accel.files import read_json

SUITE = "gpu documents"


class Hours(NamedTuple):
    """What a row says of a corpus.

    Attributes
    ----------
    network, mix, engine : str
    rate : float
        Tokens a second of one GPU.
    share : float
        Of the rate of a large matrix product, the MFU.
    hours : float
        Of one GPU, for all documents.
    noisy : bool
    """

    network: str
    mix: str
    engine: str
    rate: float
    share: float
    hours: float
    noisy: bool


def hours_of(
    runs: list[dict[str, Any]], *, documents: float, tokens_per_document: float, width: int
) -> list[Hours]:
    """Return what the newest run that measured documents says of a corpus; ours first, then by hours.

    Parameters
    ----------
    runs : list of dict
        Of a file in bench/results; those of the smoke size prove nothing and are left out.
    documents, tokens_per_document, width
        As of `care_accel.collection.estimate.estimate`.

    Raises
    ------
    CareError
        No run measured documents.
    """
    for run in reversed(runs):
        rows = [row for row in run["rows"] if row["suite"] == SUITE and run["size"] != "smoke"]
        if not rows:
            continue
        found = []
        for row in rows:
            cost = estimate(
                documents,
                width,
                tokens_per_document=tokens_per_document,
                model_tokens_per_second=row["rate"],
            )
            of = row["parameters"]
            share = row["limit"]["share"] if row["limit"] else float("nan")
            found.append(
                Hours(
                    of["network"], of["mix"], row["name"], row["rate"], share, cost.worker_hours, row["noisy"]
                )
            )
        ours = {row["name"] for row in rows if row["ours"]}
        return sorted(found, key=lambda one: (one.network, one.mix, one.engine not in ours, one.hours))
    raise CareError(f"no run measured {SUITE}; run pytest bench/gpu/test_gpu_documents.py on a GPU")


def table(found: list[Hours], documents: float, tokens_per_document: float) -> str:
    """Return a table of Markdown."""
    what = f"GPU-hours for {documents / 1e6:,.0f} million documents of {tokens_per_document:.0f} tokens"
    lines = [
        f"| network | documents of | engine | tokens a second | of the bfloat16 rate | {what} |",
        "|---|---|---|---|---|---|",
    ]
    for one in found:
        noisy = " (noisy)" if one.noisy else ""
        cells = f"{one.network} | {one.mix} | {one.engine} | {one.rate:,.0f}{noisy} | {one.share:.0%} | {one.hours:,.0f}"
        lines.append(f"| {cells} |")
    return "\n".join(lines)


def run(options: argparse.Namespace) -> None:
    """Print the table of a file."""
    results = read_json(options.results, "run make gpu-check")
    if "runs" not in results:
        raise CareError(
            f"{options.results}: has no runs; name a file that make gpu-check wrote, such as bench/results/<gpu>.json"
        )
    corpus = {"documents": options.documents, "tokens_per_document": options.tokens_per_document}
    print(table(hours_of(results["runs"], width=options.width, **corpus), **corpus))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = argparse.ArgumentParser(prog="bench.gpu.hours", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help=f"a file in {record.FOLDER.name}")
    parser.add_argument("--documents", type=float, default=100e6)
    parser.add_argument("--tokens-per-document", type=float, default=350)
    parser.add_argument("--width", type=int, default=768)
    options = parser.parse_args(arguments)
    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
