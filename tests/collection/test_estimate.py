"""What a planned collection costs: arithmetic that is held against the code and against files."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_accel import CareError, ExactIndex
from care_accel.cli import main
from care_accel.cluster import folding, plan
from care_accel.collection.estimate import CONSTANTS, estimate
from care_accel.collection.storage.layout import folder_bytes

LARGE = {"documents": 1e8, "width": 768, "model_parameters": 4e9}


def test_the_constants_of_parts_and_commits_are_those_of_the_code():
    assert CONSTANTS["tokens_a_part"].value == plan.MOST_TOKENS
    assert CONSTANTS["least_tokens_a_part"].value == plan.LEAST_TOKENS
    assert CONSTANTS["parts_of_a_small_corpus"].value == plan._PARTS
    assert CONSTANTS["rows_a_commit"].value == folding._MOST_ROWS
    assert CONSTANTS["least_rows_a_commit"].value == folding._LEAST_ROWS
    assert CONSTANTS["share_a_commit"].value == folding._SHARE
    assert all(constant.source for constant in CONSTANTS.values())


def test_a_saved_index_is_not_larger_than_what_is_estimated(tmp_path):
    index = ExactIndex(128)
    index.add(np.random.default_rng(0).standard_normal((3000, 128), dtype=np.float32))
    index.save(tmp_path / "index")
    made = estimate(3000, 128, model_tokens_per_second=1)
    assert 0.8 * made.memory_bytes < folder_bytes(tmp_path / "index") <= made.memory_bytes


def test_a_hundred_million_documents_are_those_of_the_page():
    made = estimate(**LARGE, workers=16, shards=4, memory_bandwidth=1e11)
    assert made.vector_bytes == pytest.approx(307e9, rel=0.01)
    assert made.worker_hours == pytest.approx(197, rel=0.01)
    assert (made.parts, made.commits) == (8750, 42)
    assert made.scan_seconds == pytest.approx(0.192)
    assert made.hours == pytest.approx(made.worker_hours / 16)


@given(
    st.integers(1, 10**9),
    st.integers(1, 4096),
    st.integers(1, 16),
    st.floats(1, 1e6),
)
def test_every_row_is_committed_and_shards_hold_them_all(documents, width, shards, speed):
    if shards > documents:
        return
    made = estimate(documents, width, shards=shards, model_tokens_per_second=speed)
    assert made.memory_bytes * shards >= made.vector_bytes
    assert made.mapped_memory_bytes < made.memory_bytes
    assert 1 <= made.commits <= max(40, math.ceil(documents / 4e6) + 20)
    assert 1 <= made.parts <= max(64, math.ceil(made.tokens / 4e6))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"documents": 0}, "documents is 0; it must be a number above 0"),
        ({"documents": math.inf}, "documents is inf"),
        ({"width": -1}, "width is -1"),
        (
            {"model_tokens_per_second": 5.0},
            "by one of model_tokens_per_second, as measured, and model_parameters",
        ),
        ({"model_parameters": None}, "by one of model_tokens_per_second, as measured, and model_parameters"),
        ({"chunks_per_document": 0.5}, "one vector at least"),
        ({"documents": 3, "shards": 4}, "shards is 4 for 3 vectors"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(values, message):
    with pytest.raises(CareError, match=message):
        estimate(**LARGE | values)


def test_the_command_prints_lines_or_json(capsys):
    command = ["collection", "estimate", "--documents", "1e8", "--width", "768"]
    assert main([*command, "--model-parameters", "4e9", "--workers", "16"]) == 0
    assert "307.2 GB" in capsys.readouterr().out
    assert main([*command, "--model-tokens-per-second", "48500", "--json", "--constants"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["rows"] == 100_000_000
    assert set(values["constants"]) == set(CONSTANTS)
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
