import logging
from types import SimpleNamespace

from PIL import Image

from care_accel.training.progress import ProgressCallback, plot_losses


def test_the_plot_is_a_picture_of_the_losses(tmp_path):
    history = [{"step": i, "loss": 1 / (i + 1)} for i in range(50)] + [{"step": 50, "train_runtime": 3.0}]
    plot_losses(history, "joint", tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as picture:
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_without_losses_there_is_no_plot(tmp_path):
    plot_losses([{"step": 1, "train_runtime": 3.0}], "joint", tmp_path / "loss.png")
    assert not list(tmp_path.iterdir())


def test_a_log_gets_a_line_now_and_then(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    now = iter([0.0, 10.0, 40.0, 50.0])
    monkeypatch.setattr("care_accel.training.progress.time.monotonic", lambda: next(now))
    shown = ProgressCallback("joint")
    state = SimpleNamespace(is_world_process_zero=True, global_step=100, max_steps=500)
    shown.on_train_begin(None, state, None)  # resumed at step 100
    for step in (120, 180, 200):
        state.global_step = step
        shown.on_log(None, state, None, logs={"loss": 1.25})
    shown.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "stage joint: step 180 of 500, loss 1.2500, 3 min left"
    ]
