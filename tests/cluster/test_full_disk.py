"""A disk that is really full for a process that encodes: one line, nothing half there, and a later run completes."""

import subprocess
import sys
from pathlib import Path

from cluster_corpus import document, write_lines

from care_accel import Collection
from care_accel.cluster import encode_corpus
from care_accel.collection.storage.orphans import remove_orphans

MOST_BYTES = 32_000
RUN = f"""
import resource, sys
from care_accel.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({MOST_BYTES}, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:]))
"""


def test_a_disk_that_is_full_is_told_in_one_line_and_a_later_run_completes(model, tmp_path):
    """The process may write files up to a size; the fragment is larger."""
    file = write_lines(tmp_path / "rows.jsonl", [document(number) for number in range(24)])
    made = Collection.create(tmp_path / "made", model)
    command = [sys.executable, "-c", RUN, "index", str(file), "--collection", made.uri, "--cluster", "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "waiting for" not in line]
    assert line.endswith(
        f"{made.uri}: the disk is full (File too large); what was committed before is whole, free some space and go on"
    )
    made.refresh()
    assert len(made) == 0
    encode_corpus(file, made, cluster="none", show=lambda line: None)
    assert len(made) == 24
    assert made.verify(encode=3).ok
    sizes = [each.stat().st_size for each in Path(made.uri).rglob("*.lance") if each.is_file()]
    assert max(sizes) > MOST_BYTES
    remove_orphans(made._state.table, older_than=0)
    assert made.verify().ok
