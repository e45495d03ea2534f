"""What the builder is told. The stand-in records calls and builds nothing: no engine is run or made here, since

TensorRT can be installed only where an NVIDIA GPU is. Its names are those of TensorRT 10's Python API."""

import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from care_accel import CareError
from care_accel.encoding.runtimes.tensorrt_engine import buckets_for
from care_accel.export.engine import build_engine


@pytest.fixture
def builder(monkeypatch):
    builder, parser = MagicMock(), MagicMock()
    config = builder.create_builder_config.return_value
    config.add_optimization_profile.side_effect = range(100)
    config.get_timing_cache.return_value.serialize.return_value = b"timings"
    builder.create_optimization_profile.side_effect = MagicMock
    builder.build_serialized_network.return_value = b"engine"
    module = SimpleNamespace(
        __version__="10.9.0",
        Logger=MagicMock(),
        Builder=lambda logger: builder,
        OnnxParser=lambda network, logger: parser,
        BuilderFlag=SimpleNamespace(FP16="fp16"),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return SimpleNamespace(builder=builder, config=config, parser=parser)


def test_the_builder_gets_a_profile_a_bucket_over_both_inputs_half_precision_and_the_timings(
    builder, tmp_path
):
    buckets = buckets_for(128)
    cache = build_engine(tmp_path / "g.onnx", tmp_path / "e", buckets, half=True, timings=b"earlier")
    builder.parser.parse_from_file.assert_called_once_with(str(tmp_path / "g.onnx"))
    profiles = [call.args[0] for call in builder.config.add_optimization_profile.call_args_list]
    shapes = [{c.args[0]: c.args[1:] for c in profile.set_shape.call_args_list} for profile in profiles]
    assert shapes == [
        dict.fromkeys(("input_ids", "attention_mask"), ((1, 1), tuple(b), tuple(b))) for b in buckets
    ]
    builder.config.set_flag.assert_called_once_with("fp16")
    builder.config.create_timing_cache.assert_called_once_with(b"earlier")
    assert cache == b"timings"
    assert (tmp_path / "e").read_bytes() == b"engine"


def test_float32_allows_no_half_precision(builder, tmp_path):
    build_engine(tmp_path / "g", tmp_path / "e", buckets_for(16), half=False)
    builder.config.set_flag.assert_not_called()


def test_timings_of_another_gpu_are_left_aside(builder, tmp_path):
    builder.config.set_timing_cache.return_value = False
    build_engine(tmp_path / "g", tmp_path / "e", buckets_for(16), half=True, timings=b"of another")
    assert [c.args for c in builder.config.create_timing_cache.call_args_list] == [(b"of another",), (b"",)]


def test_what_the_library_refuses_is_one_line_with_its_words(builder, tmp_path):
    builder.builder.build_serialized_network.return_value = None
    with pytest.raises(CareError, match=r"TensorRT 10\.9\.0 built no engine"):
        build_engine(tmp_path / "g", tmp_path / "e", buckets_for(16), half=True)
    builder.parser.parse_from_file.return_value = False
    builder.parser.num_errors = 1
    builder.parser.get_error.return_value.desc.return_value = "no importer\nfor Dance"
    with pytest.raises(CareError, match="cannot read the graph: no importer for Dance"):
        build_engine(tmp_path / "g", tmp_path / "e", buckets_for(16), half=True)
    assert list(tmp_path.iterdir()) == []
