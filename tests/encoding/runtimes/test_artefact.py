import dataclasses
import json

import pytest

from care_accel import CareError, EncoderSpec
from care_accel.encoding.runtimes.artefact import Artefact, file_digest

SPEC = EncoderSpec(pooling="first", order="normalize-then-slice", width=8, max_tokens=64)


@pytest.fixture
def encoder_folder(tmp_path):
    folder = tmp_path / "runtimes" / "onnx"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"graph")
    values = {
        "format": 1,
        "fingerprint": "sha256:a",
        "dtype": "float32",
        "spec": {name: getattr(SPEC, name) for name in ("pooling", "order", "width", "max_tokens")},
        "files": {"model.onnx": file_digest(folder / "model.onnx")},
    }
    (folder / "export.json").write_text(json.dumps(values))
    return tmp_path


def test_an_encoder_without_an_export_has_none(tmp_path):
    assert Artefact.find(tmp_path, "onnx") is None


@pytest.mark.parametrize(
    ("fingerprint", "changes", "words"),
    [
        ("sha256:a", {}, None),
        ("sha256:a", {"prompts": {"sts": "a{text}"}, "padding_side": "left", "max_tokens": 5}, None),
        ("sha256:b", {}, "other weights"),
        ("sha256:a", {"pooling": "mean"}, "pooling 'first', not 'mean'"),
        ("sha256:a", {"order": "slice-then-normalize"}, "order"),
        ("sha256:a", {"width": 4}, "width 8, not 4"),
        ("sha256:a", {"dtype": "float16"}, "has dtype float32, not float16"),
        ("sha256:a", {"max_tokens": 65}, "has max_tokens 64, not 65"),
    ],
)
def test_an_export_is_of_its_weights_and_spec_only(encoder_folder, fingerprint, changes, words):
    found = Artefact.find(encoder_folder, "onnx").mismatch(fingerprint, dataclasses.replace(SPEC, **changes))
    assert found is None if words is None else words in found


def test_a_file_that_is_gone_or_changed_is_named(encoder_folder):
    artefact = Artefact.find(encoder_folder, "onnx")
    graph = artefact.folder / "model.onnx"
    assert artefact.checked("model.onnx") == graph
    graph.write_bytes(b"another")
    with pytest.raises(CareError, match=r"model.onnx: missing or changed since the export"):
        artefact.checked("model.onnx")
    graph.unlink()
    assert "lacks the file model.onnx" in artefact.mismatch("sha256:a", SPEC)
    with pytest.raises(CareError, match=r"does not list model.engine"):
        artefact.checked("model.engine")


def test_what_another_release_wrote_is_refused(encoder_folder):
    (encoder_folder / "runtimes" / "onnx" / "export.json").write_text('{"format": 2}')
    with pytest.raises(CareError, match="format 2 is unknown"):
        Artefact.find(encoder_folder, "onnx")
