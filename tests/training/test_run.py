import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from care_accel import CareError, DualEncoder
from care_accel.training import load_recipe, train
from care_accel.training.networks import initial_model


def hits(model, data_dir):
    """How many questions of the training data find their own answer first."""
    rows = [json.loads(line) for line in (data_dir / "triplets.jsonl").read_text().splitlines()]
    scores = (
        model.encode_query([r["query"] for r in rows]) @ model.encode_document([r["pos"][0] for r in rows]).T
    )
    return int((scores.argmax(axis=1) == np.arange(len(rows))).sum())


def test_a_recipe_trains_a_model_that_finds_its_answers(values, write_recipe, data_dir, tmp_path):
    file = write_recipe(values)
    before = hits(initial_model(load_recipe(file), data_dir, tmp_path / "initial"), data_dir)
    model = train(file, data_dir, tmp_path / "run")
    assert hits(model, data_dir) > max(before, 5)
    again = DualEncoder.from_pretrained(tmp_path / "run" / "joint")
    assert again.revision("query") == model.revision("query")
    assert again.spec("document").max_tokens == 64  # the shorter limit of training stays in training
    record = json.loads((tmp_path / "run/joint/training.json").read_text())
    assert record["recipe"]["name"] == "tiny"
    assert set(record["data"]) == {"triplets.jsonl", "pairs.jsonl", "texts.jsonl"}
    assert record["versions"]["torch"]
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["joint"]
    assert (tmp_path / "run/joint/loss.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_gets_the_losses_if_asked(values, write_recipe, data_dir, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(write_recipe(values), data_dir, tmp_path / "run", tensorboard=True)
    events = EventAccumulator(str(tmp_path / "run/tensorboard/joint")).Reload()
    assert "train/loss" in events.Tags()["scalars"]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ


def test_a_finished_stage_is_kept_and_one_of_another_recipe_refused(
    values, write_recipe, data_dir, tmp_path, monkeypatch
):
    values["stages"][0]["epochs"] = 1.0
    file = write_recipe(values)
    model = train(file, data_dir, tmp_path / "run")
    monkeypatch.setattr("care_accel.training.run._METHODS", {})
    assert train(file, data_dir, tmp_path / "run").revision("query") == model.revision("query")
    values["seed"] = 1
    with pytest.raises(CareError, match="has a model of another recipe"):
        train(write_recipe(values), data_dir, tmp_path / "run")


@pytest.mark.parametrize("start_weight", [0.0, 0.25])
def test_a_run_that_was_stopped_ends_as_an_unbroken_one(
    values, write_recipe, data_dir, tmp_path, monkeypatch, start_weight
):
    from sentence_transformers import SentenceTransformerTrainer

    values["stages"][0] |= {"epochs": 2.0, "start_weight": start_weight}
    file = write_recipe(values)
    unbroken = train(file, data_dir, tmp_path / "unbroken")
    steps, training_step = [], SentenceTransformerTrainer.training_step

    def stopped(trainer, *arguments, **options):
        steps.append(trainer.state.global_step)
        if len(steps) == 8:
            raise KeyboardInterrupt
        return training_step(trainer, *arguments, **options)

    monkeypatch.setattr(SentenceTransformerTrainer, "training_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(file, data_dir, tmp_path / "run")
    before = len(steps)
    resumed = train(file, data_dir, tmp_path / "run")
    assert steps[before] == 5  # the last multiple of save_steps
    for role in ("query", "document"):
        ours, theirs = (
            load_file(m.source(role).checkpoint.folder / "model.safetensors") for m in (resumed, unbroken)
        )
        for name, weights in theirs.items():
            np.testing.assert_allclose(ours[name], weights, atol=1e-5, err_msg=name)


def test_weights_are_saved_in_the_precision_of_the_recipe(values, write_recipe, data_dir, tmp_path):
    values["save_dtype"] = "float16"
    values["stages"][0]["epochs"] = 1.0
    model = train(write_recipe(values), data_dir, tmp_path / "run")
    weights = load_file(model.source("query").checkpoint.folder / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {np.dtype(np.float16)}
    assert model.encode_query("头痛").dtype == np.float32


def test_a_missing_file_is_said_before_anything_is_trained(values, write_recipe, data_dir, tmp_path):
    (data_dir / "pairs.jsonl").unlink()
    with pytest.raises(CareError, match=r"pairs\.jsonl: no such file"):
        train(write_recipe(values), data_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_was_being_written_is_passed_over(
    values, write_recipe, data_dir, tmp_path, monkeypatch
):
    from sentence_transformers import SentenceTransformerTrainer

    training_step, steps = SentenceTransformerTrainer.training_step, []

    def stopped(trainer, *arguments, **options):
        steps.append(trainer.state.global_step)
        if len(steps) == 7:
            raise KeyboardInterrupt
        return training_step(trainer, *arguments, **options)

    monkeypatch.setattr(SentenceTransformerTrainer, "training_step", stopped)
    file = write_recipe(values)
    with pytest.raises(KeyboardInterrupt):
        train(file, data_dir, tmp_path / "run")
    half = tmp_path / "run/.joint-work/checkpoints/checkpoint-9"
    half.mkdir()
    (half / "optimizer.pt").write_bytes(b"half")
    train(file, data_dir, tmp_path / "run")
    assert steps[7] == 5


def test_a_stage_may_be_added_to_a_finished_run(values, write_recipe, data_dir, tmp_path):
    (stage,) = values["stages"]
    stage |= {"epochs": 1.0, "data": [{"file": "pairs.jsonl", "kind": "pairs"}]}
    first = train(write_recipe(values), data_dir, tmp_path / "run")
    values["stages"].append(stage | {"name": "more", "data": [{"file": "triplets.jsonl"}]})
    second = train(write_recipe(values), data_dir, tmp_path / "run")
    assert DualEncoder.from_pretrained(tmp_path / "run/joint").revision("query") == first.revision("query")
    assert second.revision("query") != first.revision("query")
    record = json.loads((tmp_path / "run/joint/training.json").read_text())
    assert set(record["data"]) == {"triplets.jsonl", "pairs.jsonl"}  # the tokenizer's and its own


def test_another_model_under_the_same_name_is_another_start(values, write_recipe, data_dir, tmp_path):
    values["stages"][0]["epochs"] = 1.0
    train(write_recipe(values), data_dir, tmp_path / "first")
    start = tmp_path / "start"
    shutil.copytree(tmp_path / "first/joint", start)
    values["start"] = {"model": str(start)}
    train(write_recipe(values), data_dir, tmp_path / "run")
    changed = DualEncoder.from_pretrained(start, max_tokens=7)
    changed.save_pretrained(tmp_path / "changed")
    shutil.rmtree(start)
    (tmp_path / "changed").rename(start)
    with pytest.raises(CareError, match="has a model of another recipe"):
        train(write_recipe(values), data_dir, tmp_path / "run")


def test_one_file_may_be_read_in_two_ways(values, write_recipe, data_dir, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformerTrainer

    seen = {}

    def stop(trainer, *_, **__):
        seen.update({name: len(table) for name, table in trainer.train_dataset.items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(SentenceTransformerTrainer, "train", stop)
    values["stages"][0]["data"] = [
        {"file": "triplets.jsonl"},
        {"file": "triplets.jsonl", "query_fields": ["query", "query"]},
    ]
    with pytest.raises(KeyboardInterrupt):
        train(write_recipe(values), data_dir, tmp_path / "run")
    assert sorted(seen.values()) == [8, 16]


def test_a_broken_row_of_a_later_stage_is_said_before_the_first_is_trained(
    values, write_recipe, data_dir, tmp_path
):
    (data_dir / "bad.jsonl").write_text('{"query": "头痛", "pos": ["a"]}\n{"query": "头痛", "pos": "x"}\n')
    values["stages"].append(values["stages"][0] | {"name": "second", "data": [{"file": "bad.jsonl"}]})
    with pytest.raises(CareError, match=r"bad\.jsonl, line 2: 'pos' must be a list of strings"):
        train(write_recipe(values), data_dir, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_made_is_one_line(values, write_recipe, data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CareError, match=r"--output .*file: cannot be created"):
        train(write_recipe(values), data_dir, tmp_path / "file")


def test_a_loss_that_is_no_number_stops_the_run_and_says_what_to_change(
    values, write_recipe, data_dir, tmp_path
):
    values["stages"][0] |= {"learning_rate": 1e30, "epochs": 20.0}
    with pytest.raises(CareError, match=r"stage 'joint': the loss is .* lower learning_rate"):
        train(write_recipe(values), data_dir, tmp_path / "run")
