import json

import numpy as np
import pytest

from care_accel import CareError, DualEncoder, ExactIndex, Retriever
from care_accel.serving import write_repository
from care_accel.serving.repository.config import read_config
from care_accel.serving.repository.python_backend import MODELS

from ..conftest import REPOSITORY

pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (extra server)")


def parameter(repository, model, name):
    return json.loads(read_config(repository / model / "config.pbtxt").parameters[name].string_value)


def files(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_committed_repository_is_what_is_written(tmp_path):
    write_repository(tmp_path / "model_repository")
    assert files(tmp_path / "model_repository") == files(REPOSITORY)


def test_it_holds_no_path_of_any_machine():
    for name, content in files(REPOSITORY).items():
        assert b"/work" not in content, name
        assert b"/home" not in content, name


@pytest.mark.parametrize("name", MODELS)
def test_a_model_s_program_is_three_lines(name):
    assert len((REPOSITORY / name / "1" / "model.py").read_text().splitlines()) == 3


def test_clients_can_read_what_the_encoders_are(model):
    for role in ("query", "document"):
        care = parameter(REPOSITORY, f"{role}_encoder", "care")
        assert care["revision"] == model.revision(role)
        assert care["width"] == model.width
        assert care["spec"] == model.spec(role).to_dict()
        assert (care["name"], care["role"], care["symmetric"]) == ("care-mini", role, False)


def test_queries_are_kept_for_one_tenant_only(tmp_path):
    assert parameter(REPOSITORY, "document_encoder", "cached_texts") == 0
    write_repository(tmp_path / "r", several_tenants=True)
    for name in ("query_encoder", "search"):
        assert parameter(REPOSITORY, name, "cached_texts") > 0
        assert parameter(tmp_path / "r", name, "cached_texts") == 0


def test_documents_give_way_to_queries_and_overload_is_refused():
    assert parameter(REPOSITORY, "document_encoder", "background") is True
    assert parameter(REPOSITORY, "query_encoder", "background") is False
    for name in MODELS:
        assert parameter(REPOSITORY, name, "queue") > 0
        assert parameter(REPOSITORY, name, "wait") > 0


def test_the_server_s_own_limits_are_not_used():
    # With any of them its batcher forgets requests for half a second: see care_accel.serving.backend.backlog.
    for name in MODELS:
        batching = read_config(REPOSITORY / name / "config.pbtxt").dynamic_batching
        assert not batching.HasField("default_queue_policy")
        assert not batching.priority_queue_policy
        assert batching.priority_levels == 0


def test_a_gpu_repository_has_an_instance_on_each_gpu(tmp_path):
    write_repository(tmp_path / "r", gpu=True)
    for name in ("query_encoder", "document_encoder", "scan"):
        config = read_config(tmp_path / "r" / name / "config.pbtxt")
        assert [group.kind for group in config.instance_group] == [config.instance_group[0].KIND_GPU]
    assert config.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"].string_value == "no"


def test_a_search_is_one_model_on_the_processor_and_on_a_gpu_an_ensemble_with_the_same_tensors(tmp_path):
    write_repository(tmp_path / "r", gpu=True)
    one, ensemble = (
        read_config(folder / "search" / "config.pbtxt") for folder in (REPOSITORY, tmp_path / "r")
    )
    assert (one.backend, one.platform) == ("python", "")
    assert (ensemble.backend, ensemble.platform) == ("", "ensemble")
    assert list(one.input) == list(ensemble.input)
    assert list(one.output) == list(ensemble.output)
    assert one.max_batch_size == ensemble.max_batch_size


@pytest.mark.parametrize(
    ("in_process", "runtime", "backend"),
    [
        (False, "auto", "python"),
        (True, "auto", "care"),
        (True, "pytorch", "care"),
        (None, "auto", "care"),
        (None, "pytorch", "python"),  # which loads what the server may have in another release
    ],
)
def test_a_search_runs_in_the_server_s_process_if_it_is_asked_for_or_safe(
    tmp_path, in_process, runtime, backend
):
    write_repository(tmp_path / "r", in_process=in_process, runtime=runtime)
    backends = {name: read_config(tmp_path / "r" / name / "config.pbtxt").backend for name in MODELS}
    assert backends == dict.fromkeys(MODELS, "python") | {"search": backend}


def test_on_gpus_no_search_runs_in_the_server_s_process(tmp_path):
    with pytest.raises(CareError, match="on the CPU only"):
        write_repository(tmp_path / "r", gpu=True, in_process=True)
    write_repository(tmp_path / "r", gpu=True, in_process=None)
    assert read_config(tmp_path / "r" / "search" / "config.pbtxt").platform == "ensemble"


def test_the_search_is_of_the_models_that_are_served_with_it():
    search = parameter(REPOSITORY, "search", "care")
    assert search.pop("query_revision") == parameter(REPOSITORY, "query_encoder", "care")["revision"]
    assert search == parameter(REPOSITORY, "scan", "care")


def test_options_of_the_model_are_handed_on(tmp_path, tiny_folders):
    write_repository(
        tmp_path / "r",
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset="care",
        width=16,
    )
    loading = parameter(tmp_path / "r", "query_encoder", "load")
    assert loading == {
        "query": str(tiny_folders / "query_encoder"),
        "document": str(tiny_folders / "document_encoder"),
        "preset": "care",
        "width": 16,
    }
    assert read_config(tmp_path / "r" / "scan" / "config.pbtxt").input[0].dims == [16]
    assert DualEncoder.from_pretrained(**loading).width == 16


def test_an_index_is_named_by_its_whole_path(tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Retriever.from_documents(model, ["头痛"]).save("mine")
    write_repository("r", index="mine")
    for name in ("scan", "search"):
        assert parameter(tmp_path / "r", name, "index") == str(tmp_path / "mine")


def test_an_index_that_the_model_cannot_search_is_refused_before_anything_is_written(tmp_path, model):
    index = ExactIndex(3)
    index.add(np.eye(3, dtype=np.float32))
    index.save(tmp_path / "narrow")
    with pytest.raises(CareError, match="the index has width 3, but care-mini has width 384"):
        write_repository(tmp_path / "r", index=tmp_path / "narrow")
    with pytest.raises(CareError, match="no such file"):
        write_repository(tmp_path / "r", index=tmp_path / "nowhere")
    assert not (tmp_path / "r").exists()


def test_another_folder_is_not_overwritten(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("years of work")
    with pytest.raises(CareError, match=r"choose another folder"):
        write_repository(tmp_path / "r")
    assert (tmp_path / "r" / "thesis.txt").read_text() == "years of work"


def test_a_repository_is_replaced_whole(tmp_path):
    write_repository(tmp_path / "r")
    write_repository(tmp_path / "r", several_tenants=True)
    assert sorted(folder.name for folder in (tmp_path / "r").iterdir()) == sorted(MODELS)
