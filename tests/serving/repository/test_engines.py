"""Repositories for ONNX Runtime and TensorRT: what is written, and that it fits together."""

import json
from itertools import pairwise

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2 as schema

from care_accel import DualEncoder, ExactIndex
from care_accel.encoding.runtimes.artefact import file_digest
from care_accel.encoding.runtimes.tensorrt_engine import Bucket, buckets_for
from care_accel.encoding.spec import Dense
from care_accel.errors import CareError
from care_accel.files import write_json
from care_accel.serving.repository import engines
from care_accel.serving.repository.config import read_config
from care_accel.serving.repository.engines import lengths_for, write_engine_repository

ROLES = ("query", "document")


def configs(repository):
    return {file.parent.name: read_config(file) for file in sorted(repository.glob("*/config.pbtxt"))}


def misfits(found):
    """Return what does not fit in the ensembles of a repository: nothing, if all is well."""
    wrong = []
    for ensemble in found.values():
        have = {t.name: (t.data_type, list(t.dims), t.optional) for t in ensemble.input}
        for step in ensemble.ensemble_scheduling.step:
            model = found.get(step.model_name)
            if model is None:
                wrong.append(f"{ensemble.name}: no model {step.model_name}")
                continue
            if model.max_batch_size < ensemble.max_batch_size:
                wrong.append(f"{ensemble.name}: {model.name} takes smaller batches")
            inputs = {t.name: (t.data_type, list(t.dims), t.optional) for t in model.input}
            for name, (dtype, dims, optional) in inputs.items():
                tensor = step.input_map.get(name)
                if tensor is None and not optional:
                    wrong.append(f"{ensemble.name}: {model.name} gets no {name}")
                elif tensor is not None and tensor not in have:
                    wrong.append(f"{ensemble.name}: nothing makes {tensor}")
                elif tensor is not None and not alike(have[tensor], (dtype, dims, optional)):
                    wrong.append(f"{ensemble.name}: {tensor} is no {model.name}.{name}")
            wrong += [
                f"{ensemble.name}: {model.name} takes no {n}" for n in step.input_map if n not in inputs
            ]
            outputs = {t.name: (t.data_type, list(t.dims), False) for t in model.output}
            for name, tensor in step.output_map.items():
                if name not in outputs:
                    wrong.append(f"{ensemble.name}: {model.name} gives no {name}")
                else:
                    have[tensor] = outputs[name]
        if ensemble.platform == "ensemble":
            for tensor in ensemble.output:
                if have.get(tensor.name) != (tensor.data_type, list(tensor.dims), False):
                    wrong.append(f"{ensemble.name}: {tensor.name} is not what its steps give")
    return wrong


def alike(given, taken):
    (dtype, dims, optional), (want, wanted, may_miss) = given, taken
    sizes = len(dims) == len(wanted) and all(
        -1 in (a, b) or a == b for a, b in zip(dims, wanted, strict=True)
    )
    return dtype == want and sizes and (may_miss or not optional)


@pytest.fixture
def no_graphs(monkeypatch):
    """Leave out what takes seconds: the graph is a file that says whose it is."""

    def write(network, spec, file, dense=None):
        file.write_text(f"{network.config.model_type} {spec.pooling} {dense is not None}")

    monkeypatch.setattr(engines, "write_graph", write)


@pytest.fixture
def tiny(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def built_for_tensorrt(folder, role, dtype="float16"):
    """Let a saved encoder look as if ``care-accel export --runtime tensorrt`` had been run."""
    manifest = json.loads((folder / "care.json").read_text())
    manifest[role]["spec"]["dtype"] = dtype
    write_json(folder / "care.json", manifest)
    place = folder / manifest[role]["folder"] / "runtimes" / "tensorrt"
    place.mkdir(parents=True)
    (place / "model.engine").write_bytes(f"engine of {role}".encode())
    spec = manifest[role]["spec"]
    values = {
        "format": 1,
        "runtime": "tensorrt",
        "dtype": dtype,
        "fingerprint": manifest[role]["revision"],
        "spec": {name: spec[name] for name in ("pooling", "order", "width", "max_tokens")},
        "buckets": buckets_for(spec["max_tokens"]),
        "files": {"model.engine": file_digest(place / "model.engine")},
    }
    write_json(place / "export.json", values)


@pytest.fixture
def with_engines(tiny):
    for role in ROLES:
        built_for_tensorrt(tiny, role)
    return tiny


@pytest.mark.parametrize("gpu", [False, True])
def test_the_models_of_a_graph_s_repository_fit_together(no_graphs, tiny, tmp_path, gpu):
    write_engine_repository(tmp_path / "r", tiny, engine="onnxruntime", gpu=gpu)
    found = configs(tmp_path / "r")
    assert set(found) == {f"{role}_{part}" for role in ROLES for part in ("encoder", "tokenizer", "network")}
    assert misfits(found) == []
    for role in ROLES:
        network = found[f"{role}_network"]
        assert network.platform == "onnxruntime_onnx"
        kind = schema.ModelInstanceGroup.KIND_GPU if gpu else schema.ModelInstanceGroup.KIND_CPU
        assert [group.kind for group in network.instance_group] == [kind]
        assert (tmp_path / "r" / network.name / "1" / "model.onnx").is_file()


def test_the_models_of_an_engine_s_repository_fit_together(with_engines, tmp_path):
    write_engine_repository(tmp_path / "r", with_engines, engine="tensorrt")
    found = configs(tmp_path / "r")
    assert misfits(found) == []
    for role in ROLES:
        network = found[f"{role}_network"]
        assert network.platform == "tensorrt_plan"
        assert [group.kind for group in network.instance_group] == [schema.ModelInstanceGroup.KIND_GPU]
        assert (
            tmp_path / "r" / network.name / "1" / "model.plan"
        ).read_bytes() == f"engine of {role}".encode()
        assert not network.optimization.HasField("execution_accelerators")


def test_dense_layers_are_in_the_graph_and_decide_the_width(no_graphs, tiny_folders, tmp_path):
    from care_accel.encoding.loading.dense import store_random

    folder = tiny_folders / "query_encoder"
    plain = DualEncoder.from_pretrained(query=folder, document=folder)
    plain.save_pretrained(tmp_path / "m")
    store_random([Dense(12, "tanh")], 32, tmp_path / "m/query_encoder")
    manifest = json.loads((tmp_path / "m/care.json").read_text())
    for role in ROLES:
        manifest[role]["spec"] |= {"width": 12, "dense": [{"width": 12, "activation": "tanh"}]}
        del manifest[role]["revision"]
    write_json(tmp_path / "m/care.json", manifest)
    write_engine_repository(tmp_path / "r", tmp_path / "m", engine="onnxruntime")
    found = configs(tmp_path / "r")
    assert misfits(found) == []
    network = found["query_encoder"].ensemble_scheduling.step[1].model_name
    assert (tmp_path / "r" / network / "1/model.onnx").read_text() == "gte mean True"
    assert list(found[network].output[0].dims) == [12]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["query_encoder"].ensemble_scheduling.step[1].input_map.pop("attention_mask"), "gets no"),
        (lambda c: setattr(c["query_network"].input[0], "data_type", schema.TYPE_INT32), "is no"),
        (lambda c: setattr(c["query_network"], "max_batch_size", 4), "smaller batches"),
        (lambda c: setattr(c["query_encoder"].output[1], "name", "TOKEN"), "is not what"),
        (lambda c: c.pop("query_tokenizer"), "no model"),
    ],
)
def test_the_check_of_this_file_finds_what_does_not_fit(no_graphs, tiny, tmp_path, change, said):
    write_engine_repository(tmp_path / "r", tiny, engine="onnxruntime")
    found = configs(tmp_path / "r")
    change(found)
    assert any(said in line for line in misfits(found))


def test_an_engine_s_profiles_are_those_of_its_buckets_and_each_is_warmed_up(with_engines, tmp_path):
    write_engine_repository(tmp_path / "r", with_engines, engine="tensorrt")
    buckets = buckets_for(512)
    found = configs(tmp_path / "r")
    network, tokenizer = found["query_network"], found["query_tokenizer"]
    assert list(network.instance_group[0].profile) == [str(i) for i in range(len(buckets))]
    assert network.max_batch_size == max(bucket.batch for bucket in buckets)
    lengths = json.loads(tokenizer.parameters["lengths"].string_value)
    assert {bucket.tokens for bucket in buckets} <= set(lengths)
    warm = {Bucket(s.batch_size, s.inputs["input_ids"].dims[0]) for s in network.model_warmup}
    assert warm == set(buckets) | {Bucket(1, length) for length in lengths}


def test_warm_up_rows_are_real_tokens_of_the_encoder(no_graphs, tiny, tmp_path):
    write_engine_repository(tmp_path / "r", tiny, engine="onnxruntime")
    folder = tmp_path / "r" / "document_network"
    for sample in read_config(folder / "config.pbtxt").model_warmup:
        rows = {
            name: np.frombuffer((folder / "warmup" / given.input_data_file).read_bytes(), np.int64)
            for name, given in sample.inputs.items()
        }
        assert {len(row) for row in rows.values()} == set(sample.inputs["input_ids"].dims)
        assert rows["attention_mask"].all()
        assert len(set(rows["input_ids"].tolist())) > 3


def test_a_processor_s_threads_are_set_and_a_gpu_does_not_round_to_tensorfloat(no_graphs, tiny, tmp_path):
    for gpu in (False, True):
        write_engine_repository(tmp_path / "r", tiny, engine="onnxruntime", gpu=gpu)
        network = configs(tmp_path / "r")["query_network"]
        threads = {key: value.string_value for key, value in network.parameters.items()}
        accelerators = network.optimization.execution_accelerators.gpu_execution_accelerator
        if gpu:
            assert [(a.name, dict(a.parameters)) for a in accelerators] == [("cuda", {"use_tf32": "0"})]
        else:
            wanted = {"intra_op_thread_count": "0", "inter_op_thread_count": "1", "execution_mode": "0"}
            assert (threads, len(accelerators)) == (wanted, 0)


def test_no_queue_is_limited_unless_asked_for(no_graphs, tiny, tmp_path):
    for limits in (False, True):
        write_engine_repository(tmp_path / "r", tiny, engine="onnxruntime", queue_limits=limits)
        for name, config in configs(tmp_path / "r").items():
            if not name.endswith("_encoder"):
                assert config.HasField("dynamic_batching")
                assert config.dynamic_batching.HasField("default_queue_policy") == limits


def test_nothing_is_kept_in_the_server_s_cache_which_keeps_refusals_as_answers(no_graphs, tiny, tmp_path):
    write_engine_repository(tmp_path / "r", tiny, engine="onnxruntime")
    assert not any(config.HasField("response_cache") for config in configs(tmp_path / "r").values())


def test_what_clients_read_is_at_the_encoder(no_graphs, tiny, tmp_path):
    write_engine_repository(tmp_path / "r", tiny, engine="onnxruntime")
    model = DualEncoder.from_pretrained(tiny)
    for role in ROLES:
        config = configs(tmp_path / "r")[f"{role}_encoder"]
        known = json.loads(config.parameters["care"].string_value)
        assert known["revision"] == model.revision(role)
        assert (known["role"], known["width"]) == (role, 24)


def test_an_exported_graph_is_taken_as_it_is(monkeypatch, tiny, tmp_path):
    built_for_tensorrt(tiny, "query", dtype="float32")
    runtimes = tiny / "query_encoder" / "runtimes"
    (runtimes / "tensorrt").rename(runtimes / "onnx")
    (runtimes / "onnx" / "model.engine").rename(runtimes / "onnx" / "model.onnx")
    values = json.loads((runtimes / "onnx" / "export.json").read_text())
    values["files"] = {"model.onnx": values["files"]["model.engine"]}
    write_json(runtimes / "onnx" / "export.json", values)
    monkeypatch.setattr(engines, "write_graph", lambda *_: pytest.fail("there is a graph"))
    write_engine_repository(tmp_path / "r", tiny, engine="onnxruntime", roles=["query"])
    assert (tmp_path / "r/query_network/1/model.onnx").read_bytes() == b"engine of query"


def test_a_network_that_serves_both_roles_is_written_once(no_graphs, tiny, tmp_path):
    twin = DualEncoder.from_pretrained(tiny).twin("document")
    twin.save_pretrained(tmp_path / "twin")
    write_engine_repository(tmp_path / "r", tmp_path / "twin", engine="onnxruntime")
    found = configs(tmp_path / "r")
    assert "document_network" not in found
    assert found["document_encoder"].ensemble_scheduling.step[1].model_name == "query_network"
    assert misfits(found) == []


def test_with_an_index_the_search_is_served_too(no_graphs, tiny, tiny_model, tmp_path):
    index = ExactIndex(24)
    index.add(np.eye(3, 24, dtype=np.float32))
    index.save(tmp_path / "index")
    write_engine_repository(tmp_path / "r", tiny, engine="onnxruntime", index=tmp_path / "index")
    found = configs(tmp_path / "r")
    assert {"scan", "search"} <= set(found)
    assert misfits(found) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "tensorrt"}, r"nothing was exported for TensorRT; care-accel export --runtime tensorrt"),
        ({"engine": "openvino"}, "unknown engine 'openvino'; choose one of onnxruntime, tensorrt"),
        ({"engine": "onnxruntime", "dtype": "int8"}, "int8 needs the native runtime"),
        ({"engine": "onnxruntime", "dtype": "float16"}, "are float32, not float16"),
        ({"engine": "onnxruntime", "roles": []}, "roles is empty"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_is_written(tiny, tmp_path, options, said):
    with pytest.raises(CareError, match=said):
        write_engine_repository(tmp_path / "r", tiny, **options)
    assert not (tmp_path / "r").exists()


def test_an_engine_of_other_weights_is_refused(with_engines, tmp_path):
    export = with_engines / "query_encoder/runtimes/tensorrt/export.json"
    values = json.loads(export.read_text())
    write_json(export, values | {"fingerprint": "sha256:0"})
    with pytest.raises(CareError, match=r"made from other weights; care-accel export .*--role query"):
        write_engine_repository(tmp_path / "r", with_engines, engine="tensorrt")


def test_another_folder_is_not_overwritten(no_graphs, tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(CareError, match="choose another folder"):
        write_engine_repository(tmp_path / "mine", tiny, engine="onnxruntime")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("longest", [1, 7, 8, 16, 100, 512, 1000])
def test_lengths_rise_to_the_longest_and_no_text_is_more_than_doubled(longest, gpu):
    lengths = lengths_for(longest, gpu=gpu)
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == longest
    assert all(b <= 2 * a for a, b in pairwise(lengths))
