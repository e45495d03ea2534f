"""The runtime's vectors are compared in tests/export, where graphs are written."""

import pytest
from onnx import TensorProto, helper, save

from care_accel import CareError
from care_accel.encoding.runtimes.onnxruntime_cpu import OnnxRuntime


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CareError, match=r"model\.onnx: ONNX Runtime .* cannot read it"):
        OnnxRuntime(tmp_path / "model.onnx")


def test_a_graph_of_another_kind_is_refused(tmp_path):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "other", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, tmp_path / "model.onnx")
    with pytest.raises(CareError, match="not written by care-accel export"):
        OnnxRuntime(tmp_path / "model.onnx")
