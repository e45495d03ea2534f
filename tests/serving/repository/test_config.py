"""Configurations: what a message holds comes back from its text, and the text is always the same."""

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as schema

from care_accel.errors import CareError
from care_accel.serving.repository.config import (
    Step,
    Tensor,
    add_instances,
    add_warmup,
    model_config,
    read_config,
    set_batching,
    text_of,
    write_model,
)

TEXT = Tensor("TEXT", "BYTES")
TASK = Tensor("TASK", "BYTES", optional=True)
IDS = Tensor("input_ids", "INT64", [-1])
VECTOR = Tensor("EMBEDDING", "FP32", [768])


def encoder(**options):
    return model_config(
        "encoder", inputs=[TEXT, TASK], outputs=[VECTOR], max_batch_size=8, backend="python", **options
    )


def test_tensors_have_the_schema_s_types_and_no_batch_dimension():
    config = encoder()
    assert [(t.name, t.data_type, list(t.dims), t.optional) for t in config.input] == [
        ("TEXT", schema.TYPE_STRING, [1], False),
        ("TASK", schema.TYPE_STRING, [1], True),
    ]
    assert [(t.name, t.data_type, list(t.dims)) for t in config.output] == [
        ("EMBEDDING", schema.TYPE_FP32, [768])
    ]


def test_a_type_that_the_schema_has_not_is_refused():
    with pytest.raises(ValueError, match="TYPE_FLOAT"):
        model_config("m", inputs=[Tensor("X", "FLOAT")], outputs=[], max_batch_size=1, backend="python")


def test_the_written_file_reads_as_the_same_message(tmp_path):
    config = encoder(parameters={"care": '{"name": "心", "width": 768}'})
    add_instances(config, 2, kind="GPU", gpus=[0, 1])
    set_batching(config, delay_us=500, preferred=[4, 8], queue=64, timeout_us=1_000_000)
    folder = write_model(tmp_path, config, {"1/model.py": "pass\n"})
    assert read_config(folder / "config.pbtxt") == config
    assert (folder / "1" / "model.py").read_text() == "pass\n"
    assert "心" in (folder / "config.pbtxt").read_text(encoding="utf-8")


def test_the_text_does_not_depend_on_the_order_in_which_parameters_were_given():
    one, other = encoder(parameters={"a": "1", "b": "2"}), encoder(parameters={"b": "2", "a": "1"})
    assert text_of(one) == text_of(other)


def test_batching_without_a_value_is_batching_all_the_same():
    config = encoder()
    assert not config.HasField("dynamic_batching")
    set_batching(config)
    assert text_format.Parse(text_of(config), schema.ModelConfig()).HasField("dynamic_batching")


def test_a_request_that_waited_too_long_is_refused():
    config = encoder()
    set_batching(config, timeout_us=5)
    policy = config.dynamic_batching.default_queue_policy
    assert policy.timeout_action == schema.ModelQueuePolicy.REJECT
    assert policy.default_timeout_microseconds == 5
    assert policy.max_queue_size == 0


def test_steps_make_an_ensemble(tmp_path):
    config = model_config(
        "search",
        inputs=[TEXT],
        outputs=[VECTOR],
        max_batch_size=8,
        steps=[Step("encoder", {"TEXT": "TEXT"}, {"EMBEDDING": "EMBEDDING"})],
    )
    assert config.platform == "ensemble"
    (step,) = config.ensemble_scheduling.step
    assert (step.model_name, step.model_version) == ("encoder", -1)
    assert dict(step.input_map) == {"TEXT": "TEXT"}
    folder = write_model(tmp_path, config)
    assert [file.name for file in (folder / "1").iterdir()] == [".gitkeep"]


def test_a_warm_up_row_is_written_as_the_protocol_has_it(tmp_path):
    config = model_config("m", inputs=[TEXT, IDS], outputs=[VECTOR], max_batch_size=8, backend="python")
    files = add_warmup(config, "short", {"TEXT": "心".encode(), "input_ids": np.arange(3)}, batch_size=4)
    folder = write_model(tmp_path, config, files)
    assert (folder / "warmup" / "short_TEXT").read_bytes() == b"\x03\0\0\0" + "心".encode()
    found = np.frombuffer((folder / "warmup" / "short_input_ids").read_bytes(), np.int64)
    assert found.tolist() == [0, 1, 2]
    (sample,) = config.model_warmup
    assert (sample.name, sample.batch_size) == ("short", 4)
    assert list(sample.inputs["input_ids"].dims) == [3]
    assert sample.inputs["input_ids"].input_data_file == "short_input_ids"


@pytest.mark.parametrize("text", ["nothing: 1", "name: {", "max_batch_size: 'many'"])
def test_a_file_that_is_no_configuration_is_named(tmp_path, text):
    file = tmp_path / "config.pbtxt"
    file.write_text(text)
    with pytest.raises(CareError, match=r"config\.pbtxt: invalid model configuration"):
        read_config(file)


def test_a_configuration_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CareError, match="no such file"):
        read_config(tmp_path / "config.pbtxt")
