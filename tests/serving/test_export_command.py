import pytest

from care_accel.cli import main


def test_a_model_repository_is_written_for_any_model(tmp_path, tiny_model, capsys):
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra server)")
    tiny_model.save_pretrained(tmp_path / "model")
    command = f"export --repository {tmp_path / 'r'} --model {tmp_path / 'model'} --several-tenants"
    assert main(command.split()) == 0
    assert capsys.readouterr().out == f"written to {tmp_path / 'r'}/\n"
    names = ["document_encoder", "query_encoder", "scan", "search"]
    assert sorted(entry.name for entry in (tmp_path / "r").iterdir()) == names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "give --runtime and --output, or --repository"),
        ("--runtime onnx", "give --runtime and --output, or --repository"),
        ("--repository r --runtime onnx", "--repository cannot be combined with --runtime"),
        ("--repository r --model nowhere", "nowhere"),
        ("--repository r --index nowhere", "nowhere"),
        ("--repository r --engine tensorrt", "nothing was exported for TensorRT"),
    ],
)
def test_what_is_exported_is_one_thing(tmp_path, monkeypatch, capsys, options, words):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *options.split()]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
