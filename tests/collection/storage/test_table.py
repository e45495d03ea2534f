from pathlib import Path

import lance
import pytest
from lance.fragment import write_fragments

from care_accel import CareError
from care_accel.collection.storage.table import Table


@pytest.mark.parametrize("keep_days", [7, 0])
def test_compacting_keeps_what_another_process_has_written_and_commits_next(collection, keep_days):
    address = Path(collection.uri, "documents.lance")
    rows = lance.dataset(address).to_table(limit=1)
    before = set((address / "data").iterdir())
    write_fragments(rows, address)
    pending = set((address / "data").iterdir()) - before
    assert pending
    collection.compact(keep_days=keep_days)
    assert pending <= set((address / "data").iterdir())


def test_a_table_whose_newest_versions_were_removed_does_not_go_back_to_an_older_one(collection):
    seen = Table.open(collection.uri)
    versions = Path(collection.uri, "documents.lance", "_versions")
    min(versions.glob("*.manifest")).unlink()  # Lance counts them downwards
    with pytest.raises(CareError, match=f"version {seen.version} is gone and {seen.version - 1} the newest"):
        seen.latest()
