"""Deletes judgements that are no longer needed."""

from __future__ import annotations

from care_accel.curation.config import Config
from care_accel.curation.judges.store import FILE, open_store, remove_store
from care_accel.curation.labels.candidates import CACHE
from care_accel.curation.labels.sample import FILE as SAMPLE
from care_accel.curation.steps import Progress, Summary
from care_accel.curation.sts.attempts import FILE as STS_WORK


def run(config: Config, progress: Progress, *, all: bool = False) -> Summary:
    """Delete the judges' raw answers; with ``all`` every judgement, the sample with its texts, STS attempts and cached vectors.

    Without ``all``, grades, token counts and costs are kept, so that no pair is judged again.

    Raises
    ------
    CareError
        There are no judgements.
    """
    file = config.output_file(FILE)
    if all:
        removed = remove_store(file)
        for other in (config.output_file(name) for name in (SAMPLE, STS_WORK, CACHE)):
            if other.exists():
                other.unlink()
                removed.append(other)
        return Summary({"deleted": ", ".join(str(one) for one in removed) or "nothing: no such files"})
    with open_store(file) as store:
        return Summary({"answers deleted": store.purge_answers(), "grades, tokens and costs": "kept"})
