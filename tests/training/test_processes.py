"""Two gloo processes train as one does: these tests start real ones."""

import json
import runpy
import subprocess
import sys
import tempfile

import numpy as np

from care_accel import DualEncoder
from care_accel.training import train

_GRADIENT = """
import json, os, sys
import torch
from care_accel.training.losses import InfoNCE


def main():
    vectors = torch.load(sys.argv[1])
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        torch.distributed.init_process_group("gloo")
    linear = torch.nn.Linear(6, 5, bias=False)
    with torch.no_grad():
        linear.weight.copy_(vectors["weight"])
    model = torch.nn.parallel.DistributedDataParallel(linear) if count > 1 else linear
    share = [vectors[name].chunk(count)[rank] for name in ("query", "positive", "negative")]
    embeddings = [torch.nn.functional.normalize(model(part), dim=1) for part in share]
    loss = InfoNCE(torch.nn.Module(), temperature=0.1).compute_loss_from_embeddings(embeddings, None)
    loss.backward()
    if rank == 0:
        torch.save({"gradient": linear.weight.grad, "loss": loss.detach()}, sys.argv[2])


# What holds gloo's threads is gone before the group is: they would end the process with an abort.
main()
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def start_two(*arguments):
    """Run Python in two processes that torchrun starts."""
    with tempfile.TemporaryDirectory() as logs:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--log-dir={logs}"]
        command = [sys.executable, *launcher, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_two_processes_have_the_gradient_of_one_with_the_joined_batch(tmp_path, monkeypatch):
    import torch

    generator = torch.Generator().manual_seed(0)
    vectors = {name: torch.randn(8, 6, generator=generator) for name in ("query", "positive", "negative")}
    torch.save(vectors | {"weight": torch.randn(5, 6, generator=generator)}, tmp_path / "vectors.pt")
    (tmp_path / "gradient.py").write_text(_GRADIENT)
    arguments = [str(tmp_path / name) for name in ("gradient.py", "vectors.pt", "gradient.pt")]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(arguments[0])
    one = torch.load(arguments[2])["gradient"]
    (tmp_path / "gradient.pt").unlink()
    start_two(*arguments)
    assert one.abs().max() > 0.01
    torch.testing.assert_close(torch.load(arguments[2])["gradient"], one, rtol=1e-5, atol=1e-6)


def test_torchrun_trains_the_model_that_one_process_trains_with_the_joined_batch(
    values, write_recipe, data_dir, tmp_path
):
    values["start"]["query"]["network"].update(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    # Files of which whole batches are made, without a text twice: several processes leave the others out.
    data = [{"file": "triplets.jsonl"}, {"file": "texts.jsonl", "kind": "texts"}]
    (stage,) = values["stages"]
    stage.update(epochs=2.0, negatives=0, data=data)
    methods = ("joint", "alignment")
    for processes in (1, 2):
        size = {"batch_size": 4 // processes}
        values["stages"] = [stage | size | {"name": method, "method": method} for method in methods]
        run = tmp_path / str(processes)
        recipe = write_recipe(values)
        if processes == 1:
            train(recipe, data_dir, run)
        else:
            start_two("-m", "care_accel", "train", recipe, "--data-dir", data_dir, "--output", run)
        assert sorted(folder.name for folder in run.iterdir()) == sorted(methods)
    texts = ["高血压怎么治", "失眠怎么调理", "骨折"]
    for method in methods:
        folders = [tmp_path / str(processes) / method for processes in (1, 2)]
        steps = [json.loads((folder / "trainer_state.json").read_text())["global_step"] for folder in folders]
        assert steps[0] == steps[1] > 4
        one, two = (DualEncoder.from_pretrained(folder).encode_query(texts) for folder in folders)
        np.testing.assert_allclose(two, one, atol=1e-4)
