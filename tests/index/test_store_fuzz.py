"""Damaged files are refused in one line or searched without a crash; ``CARE_FUZZ=100000`` tries for longer."""

import json
import os
import shutil
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from care_accel import CareError, ExactIndex

NAMES = [
    "vectors.npy",
    "codes.npy",
    "norms.npy",
    "mean.npy",
    "int4_codes.npy",
    "residual_codes.npy",
    "int4_norms.npy",
    "value_scales.npy",
]
FILES = [
    "index.json",
    "removed.npy",
    "parts/1/vectors.npy",
    "parts/1/norms.npy",
    *(f"parts/0/{n}" for n in NAMES),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    index = ExactIndex(70)
    index._parts[0].codes.int4_min_bytes = 0
    vectors = np.random.default_rng(0).standard_normal((900, 70)).astype(np.float32)
    index.add(vectors[:800])
    folder = tmp_path_factory.mktemp("fuzz") / "index"
    index.save(folder)
    index.add(vectors[800:])
    index.remove(range(0, 900, 7))
    index.save(folder)
    return folder


def damaged(content, changes, length):
    content = bytearray(content)
    for place, value in changes:
        # Every other change is in the header, where damage has the most effects.
        at = int(place * min(len(content), 160)) if value % 2 else int(place * len(content))
        content[min(at, len(content) - 1)] = value
    return bytes(content[: int(length * len(content))])


@settings(
    max_examples=int(os.environ.get("CARE_FUZZ", "300")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(FILES),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8),
    length=st.just(1.0) | st.floats(0, 1),
    checksum_too=st.booleans(),
)
def test_no_damage_crashes_the_loader_or_the_scan(whole, tmp_path, name, changes, length, checksum_too):
    folder = tmp_path / "index"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    content = damaged((folder / name).read_bytes(), changes, length)
    (folder / name).write_bytes(content)
    if checksum_too and name != "index.json":
        manifest = json.loads((folder / "index.json").read_text())
        *part, file = name.removeprefix("parts/").split("/")
        files = manifest["parts"][int(part[0])]["files"] if part else manifest["files"]
        files[file] = {"bytes": len(content), "crc32": zlib.crc32(content)}
        (folder / "index.json").write_text(json.dumps(manifest))
    queries = np.random.default_rng(1).standard_normal((6, 70)).astype(np.float32)
    with suppress(CareError):
        index = ExactIndex.load(folder)
        for asked in (queries[:1], queries):
            ids = index.search(asked[:, : index.width], k=9)[1]
            assert ((ids >= -1) & (ids < len(index))).all()
