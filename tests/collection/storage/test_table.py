from pathlib import Path

import lance
import pytest
from lance.fragment import write_fragments


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
