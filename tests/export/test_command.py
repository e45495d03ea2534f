import json
import os
import signal

import pytest

from care_accel import DualEncoder
from care_accel.cli import main


@pytest.fixture
def model(original, tmp_path):
    original.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_command_exports_and_prints_what_was_measured(model, data_dir, tmp_path, capsys):
    (tmp_path / "corpus.txt").write_text("高血压怎么治\n血糖高吃什么？\n感冒发热怎么办？")
    (tmp_path / "texts.txt").write_text("高血压怎么治")
    options = f"--model {model} --runtime pytorch --output {tmp_path / 'out'} --data-dir {data_dir}"
    files = f"--keep-vocab {tmp_path / 'corpus.txt'} --texts {tmp_path / 'texts.txt'}"
    assert main(["export", *options.split(), *files.split()]) == 0
    printed = capsys.readouterr()
    assert "query: mean cosine 1.000000, worst 1.000000 (1 texts)" in printed.out
    assert "tokens kept" in printed.err
    values = json.loads((tmp_path / "out/query_encoder/runtimes/pytorch/export.json").read_text())
    assert values["gate"]["data"] == "retrieval/own, test"
    assert DualEncoder.from_pretrained(tmp_path / "out").encode_query("高血压怎么治").shape == (24,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--runtime pytorch --worst-cosine 2", "worst cosine 1.00000 is below 2"),
        ("--runtime onnx --dtype float16", "onnx supports dtype float32"),
        ("--runtime onnx --keep-vocab nowhere.txt", "nowhere.txt: cannot be read: no such file"),
        ("--runtime onnx --task retrieval/none", "no data set 'retrieval/none'"),
        ("--runtime pytorch --batch-change nan", "with the other texts in the batch, more than nan"),
    ],
)
def test_a_refusal_is_one_line_and_exit_code_2(model, data_dir, tmp_path, capsys, options, words):
    where = f"--model {model} --output {tmp_path / 'out'} --data-dir {data_dir}"
    assert main(["export", *where.split(), *options.split()]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert words in error
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_terminated_leaves_nothing_behind(model, data_dir, tmp_path, monkeypatch):
    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("care_accel.export.gate.Gate.measure", terminate)
    before = signal.getsignal(signal.SIGTERM)
    where = f"--model {model} --output {tmp_path / 'out'} --data-dir {data_dir} --runtime pytorch"
    with pytest.raises(SystemExit) as end:
        main(["export", *where.split()])
    assert end.value.code == 128 + signal.SIGTERM
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model"]
    assert signal.getsignal(signal.SIGTERM) is before
