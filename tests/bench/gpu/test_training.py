"""One step of each training stage: what is measured on a GPU, with tiny networks on the CPU."""

import argparse
import importlib.util
import json
import re
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from bench.gpu import training
from bench.harness import limits
from bench.training import measures, step
from care_accel.encoding import DualEncoder
from care_accel.training.recipe_file import load_recipe

SMOKE = training.SIZES["smoke"]
STAGES = {stage.name: stage for stage in load_recipe(training.RECIPE).stages}
LENGTHS = step.Lengths(SMOKE.query_tokens, SMOKE.document_tokens)


def stage_of(run):
    return replace(STAGES[run.stage], **SMOKE.changes | run.changes)


@pytest.fixture(scope="module", autouse=True)
def cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setitem(limits.PROBES, "float32 rate", ("operations/s", lambda: 1e12))
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    query = step.write_encoder(folder / "query", SMOKE.query)
    document = step.write_encoder(folder / "document", SMOKE.document)
    return DualEncoder.from_pretrained(query=query, document=document, preset="care")


@pytest.fixture(scope="module")
def joint(model):
    """Return a trainee whose gradients are cached, by mini-batches smaller than its batches."""
    stage = replace(stage_of(training.RUNS["joint"]), mini_batch_size=2)
    return step.Trainee(model, stage, "cpu", LENGTHS)


@pytest.fixture
def full_above(joint, monkeypatch):
    """Return a function after which batches of more rows than it is given run out of memory."""
    step = joint.step

    def limited(rows):
        def raising(batch):
            if len(batch[0][0]["input_ids"]) > rows:
                raise torch.OutOfMemoryError("CUDA out of memory, as a test says")
            return step(batch)

        monkeypatch.setattr(joint, "step", raising)

    return limited


def test_every_stage_of_the_recipe_has_positive_rates(tmp_path):
    assert training.main(["--size", "smoke", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert found["not_measured"] == {}
    assert found["size"] == "smoke"
    assert list(found["stages"]) == list(training.RUNS)
    assert {run.stage for run in training.RUNS.values()} == set(STAGES)
    for name, values in found["stages"].items():
        parts = [values["bfloat16"], values["float32"]] if training.RUNS[name].teacher else [values["step"]]
        for part in parts:
            assert part["tokens_per_second"] > 0
            assert 0 <= part.get("padding", 0) < 1
            assert part["share_of_matrix_rate"] == pytest.approx(part["operations_per_second"] / 1e12)
        if "step" in values:
            assert values["largest_batch_of_full_lengths"] == {
                "fits": SMOKE.most,
                "does_not_fit": None,
                "ended": "most",
            }


def test_what_cannot_be_measured_says_why_and_the_other_stages_are_measured(model, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "peft" else find(name, *_)
    )
    measurement = training.Measurement(SMOKE, "cpu", tmp_path / "found.json", {})
    runs = {name: training.RUNS[name] for name in ("document", "query-unsupervised")}
    measurement.all(runs, STAGES, model, 60)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["not_measured"] == {"document": "LoRA needs peft: pip install peft"}
    assert found["stages"]["query-unsupervised"]["step"]["tokens_per_second"] > 0


def test_stages_of_the_query_encoder_need_a_transformers_with_gte(monkeypatch):
    monkeypatch.setattr(training, "has_gte", lambda: False)
    reasons = {name: training.lacks(stage_of(run), run) for name, run in training.RUNS.items()}
    possible = [name for name, reason in reasons.items() if reason is None]
    assert possible == ["document", "document, gradients cached", "alignment, teacher"]
    assert "no gte: pip install" in reasons["joint"]


def test_the_largest_batch_that_fits_is_found_where_memory_ends(joint, full_above):
    full_above(3)
    found = measures.largest_batch(lambda rows: joint.fits(joint.tokenize(joint.longest_batch(rows))), 2, 16)
    assert found == {"fits": 3, "does_not_fit": 4, "ended": "found"}


def test_steps_are_measured_with_half_the_batch_if_it_does_not_fit(joint, full_above):
    full_above(1)
    found = measures.measure_rate(joint, 4, 1, time.monotonic())
    assert (found["batch_size"], found["does_not_fit"]) == (1, [4, 2])
    assert (found["steps"], found["warmed_up"]) == (1, False)  # without time for another
    full_above(0)
    with pytest.raises(measures.CareError, match="not even a batch of 1 fits"):
        measures.measure_rate(joint, 4, 1, time.monotonic())


def test_other_errors_are_not_taken_for_a_full_memory(joint, monkeypatch):
    def broken(batch):
        raise RuntimeError("sizes differ")

    monkeypatch.setattr(joint, "step", broken)
    with pytest.raises(RuntimeError, match="sizes differ"):
        joint.fits(None)


@given(limit=st.integers(0, 5000), start=st.integers(1, 300), most=st.integers(1, 4096))
def test_the_largest_batch_is_right_to_a_sixteenth(limit, start, most):
    tried = []

    def fits(rows):
        tried.append(rows)
        return rows <= limit

    found = measures.largest_batch(fits, start, most)
    low, high = found["fits"], found["does_not_fit"]
    assert low <= limit
    assert max(tried) <= most
    assert len(tried) < 30
    if high is None:
        assert low == most
        assert found["ended"] == "most"
    else:
        assert limit < high <= low + max(1, low // 16)
        assert found["ended"] == "found"


def test_a_search_without_time_left_says_that_more_may_fit():
    found = measures.largest_batch(lambda rows: True, 4, 64, seconds=0)
    assert found == {"fits": 4, "does_not_fit": None, "ended": "time"}


@pytest.mark.parametrize("name", ["document", "joint", "query-unsupervised"])
def test_operations_are_those_that_torch_counts_without_attention(name, model, joint):
    stage = stage_of(training.RUNS[name])
    trainee = joint if name == "joint" else step.Trainee(model, stage, "cpu", LENGTHS)
    batch = trainee.tokenize(trainee.longest_batch(4))
    with FlopCounterMode(display=False) as counter:
        trainee.step(batch)
    counted = sum(n for kind, n in counter.get_flop_counts()["Global"].items() if "bmm" not in str(kind))
    # The gradients of the first layer's inputs are not needed where embeddings are fixed; scores are no layer's.
    assert trainee.operations(batch)[1] == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "large"], "invalid choice"),
        (["--memory-gb", "0"], "--memory-gb: invalid"),
        (["--memory-gb", "nan"], "--memory-gb: invalid"),
        (["--seconds", "soon"], "--seconds: invalid"),
        (["--only", "("], r"--only \("),
        (["--only", "nothing"], "matches none of document; document, gradients cached; joint"),
        (["--size", "full"], "needs a GPU"),
        (["--size", "smoke", "--out", "FILE"], "FILE"),
    ],
)
def test_wrong_options_give_one_line_and_exit_code_2(arguments, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "FILE").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, check=lambda left: left.code == 2):
        training.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_missing_packages_are_named_with_their_command(capsys, monkeypatch):
    monkeypatch.setattr(training, "PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(SystemExit, check=lambda left: left.code == 2):
        training.main(["--size", "smoke"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("training needs no_such_package: pip install no_such_package")


def test_a_gpu_with_less_memory_than_asked_for_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    small = argparse.Namespace(total_memory=24 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: small)
    with pytest.raises(measures.CareError, match=r"24\.0 GB, fewer than --memory-gb 80"):
        training.prepare_device("full", 80)
