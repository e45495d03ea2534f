import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from care_accel import CareError, DualEncoder
from care_accel.encoding import choice
from care_accel.encoding.loading.sources import Sources


class NativeStandIn:
    """Stands for the own engine: which networks it has, without running one."""

    device = "cpu"

    def __init__(self, network, spec):
        self.spec = spec

    @staticmethod
    def unsupported_reason(config, spec):
        if config["model_type"] != "gte":
            return f"supports gte networks, not {config['model_type']}"
        return None if spec.dtype in ("float32", "int8") else f"dtype is {spec.dtype!r}"


@pytest.fixture
def native(monkeypatch):
    """Give the own engine, or a stand-in with its rules, whatever the build has."""
    name = "care_accel.encoding.runtimes.native"
    module = SimpleNamespace(
        NativeRuntime=NativeStandIn, PlainNetwork=lambda config, weights: None, __spec__=object()
    )
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def without_native(monkeypatch):
    monkeypatch.setattr(choice, "_NATIVE", "care_accel.encoding.runtimes.nothing")


def tiny(folder, **options):
    return DualEncoder.from_pretrained(
        query=folder / "query_encoder", document=folder / "document_encoder", preset="care", **options
    )


@pytest.mark.usefixtures("native")
def test_auto_takes_the_own_engine_for_gte_on_a_cpu_and_pytorch_for_what_it_has_not(tiny_folders):
    model = tiny(tiny_folders, device="cpu")
    assert model.choice("query").runtime == "native"
    assert model.choice("query").threads == len(os.sched_getaffinity(0))
    found = model.choice("document")
    assert found.runtime == "pytorch"
    assert "supports gte networks" in found.rejected["native"]
    assert "no export found" in found.rejected["onnx"]


@pytest.mark.usefixtures("native")
def test_half_precision_is_pytorch_s(tiny_folders):
    found = tiny(tiny_folders, device="cpu", dtype="bfloat16").choice("query")
    assert (found.runtime, found.dtype) == ("pytorch", "bfloat16")
    assert "bfloat16" in found.rejected["native"]


@pytest.mark.usefixtures("native")
def test_int8_changes_those_encoders_alone_that_the_own_engine_can_run(tiny_folders):
    model = tiny(tiny_folders, device="cpu", dtype="int8")
    assert model.spec("query").dtype == "int8"
    assert model.choice("query").runtime == "native"
    assert model.spec("document").dtype == "float32"
    assert model.revision("query") == tiny(tiny_folders).revision("query")
    with pytest.raises(CareError, match="pytorch: int8 needs the native runtime"):
        tiny(tiny_folders, device="cpu", dtype="int8", runtime="pytorch").encode_query("头痛")


@pytest.mark.usefixtures("native")
def test_int8_for_no_encoder_at_all_is_refused(tiny_folders):
    folder = tiny_folders / "document_encoder"
    with pytest.raises(CareError, match=r"dtype 'int8'.*supports gte networks"):
        DualEncoder.from_pretrained(query=folder, document=folder, dtype="int8")


def test_int8_on_a_gpu_is_refused_for_what_hinders_each_encoder(tiny_folders):
    with pytest.raises(CareError, match="dtype 'int8' needs the native runtime: runs on the CPU only"):
        tiny(tiny_folders, dtype="int8", device="cuda")


@pytest.mark.usefixtures("without_native")
def test_pytorch_runs_what_nothing_faster_can(tiny_folders):
    found = tiny(tiny_folders, device="cpu").choice("query")
    assert found.runtime == "pytorch"
    assert set(found.rejected) == {"native", "onnx"}
    with pytest.raises(CareError, match="dtype 'int8'"):
        tiny(tiny_folders, dtype="int8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "onnx"}, "no export found (run care-accel export --runtime onnx)"),
        ({"runtime": "native", "device": "cuda"}, "PyTorch finds no GPU on this machine"),
        ({"runtime": "tensorrt"}, "tensorrt is not installed: pip install 'care-accel[tensorrt]'"),
    ],
)
@pytest.mark.usefixtures("native")
def test_a_runtime_that_was_asked_for_and_cannot_be_had_is_one_line(
    tiny_folders, monkeypatch, options, words
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(CareError) as error:
        tiny(tiny_folders, **options).encode_query("头痛")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_runtime_is_refused_at_once(tiny_folders):
    with pytest.raises(CareError, match="unknown runtime 'magic'; choose one of auto, pytorch, onnx"):
        tiny(tiny_folders, runtime="magic")


def test_on_a_gpu_an_engine_is_taken_and_one_of_another_release_is_not(tiny_folders, tmp_path, monkeypatch):
    tiny(tiny_folders).save_pretrained(tmp_path / "pair")
    folder = tmp_path / "pair" / "query_encoder"
    model = DualEncoder.from_pretrained(tmp_path / "pair")
    place = folder / "runtimes" / "tensorrt"
    place.mkdir(parents=True)
    spec = {name: getattr(model.spec("query"), name) for name in ("pooling", "order", "width", "max_tokens")}
    values = {
        "format": 1,
        "dtype": "float32",
        "fingerprint": model.source("query").checkpoint.fingerprint,
        "spec": spec,
        "versions": {"tensorrt": "10.9.0", "gpu": "NVIDIA H100"},
        "batch_invariant": True,
    }
    (place / "export.json").write_text(json.dumps(values))
    # Only the choice is looked at: no GPU is asked for anything, and the stand-in has nothing but a version.
    monkeypatch.setattr(choice, "resolve_device", lambda device: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.9.0"))
    assert model.choice("query").runtime == "tensorrt"
    assert model.choice("document").runtime == "pytorch"
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.1.0"))
    found = model.choice("query")
    assert found.runtime == "pytorch"
    assert found.rejected["tensorrt"] == (
        "its engine was built with TensorRT 10.9.0, this machine has TensorRT 10.1.0"
    )


@pytest.mark.usefixtures("native")
def test_explain_prints_what_runs_where_and_why(tiny_folders, capsys):
    text = tiny(tiny_folders, device="cpu").explain()
    assert capsys.readouterr().out == text + "\n"
    lines = text.splitlines()
    assert "asymmetric, width 32" in lines[0]
    assert lines[1].startswith("query: gte network, float32, native on cpu, ")
    assert lines[2].startswith("document: qwen3 network, float32, pytorch on cpu, ")
    assert lines[3].startswith("  not native: ")
    assert lines[4].startswith("  not onnx: ")


@pytest.mark.usefixtures("without_native")
def test_explain_says_what_cannot_run_and_raises_nothing(tiny_folders, capsys):
    text = tiny(tiny_folders, runtime="onnx").explain()
    assert "query: gte network, cannot run: " in text


@pytest.mark.usefixtures("native")
def test_a_symmetric_model_loads_what_serves_both_roles_once(tiny_folders):
    folder = tiny_folders / "query_encoder"
    found: Sources = DualEncoder.from_pretrained(query=folder, document=folder, preset="care")._sources
    model = DualEncoder(found, "native")
    assert model.encoder("query").runtime is model.encoder("document").runtime


@pytest.mark.usefixtures("native")
def test_compiling_is_refused_where_no_network_runs_in_pytorch_on_a_gpu(tiny_folders):
    with pytest.raises(CareError, match="compiled=True needs PyTorch on a GPU") as refused:
        tiny(tiny_folders, device="cpu", compiled=True)
    assert str(refused.value).endswith(
        "but query uses native on cpu and document uses pytorch on cpu; remove compiled=True"
    )


def test_compiling_is_allowed_where_one_network_runs_in_pytorch_on_a_gpu(tiny_folders, monkeypatch):
    monkeypatch.setattr(choice, "resolve_device", lambda device: "cuda")
    chosen = choice._tensorrt_problem
    monkeypatch.setattr(
        choice,
        "_tensorrt_problem",
        lambda source, *rest: None if "query" in str(source.checkpoint.folder) else chosen(source, *rest),
    )
    model = tiny(tiny_folders, compiled=True)
    assert [model.choice(role).runtime for role in ("query", "document")] == ["tensorrt", "pytorch"]


def test_a_network_that_nothing_runs_is_no_reason_to_compile(tiny_folders):
    with pytest.raises(CareError, match=r"query: .*no export found.*; remove compiled=True"):
        tiny(tiny_folders, device="cpu", runtime="onnx", compiled=True)
