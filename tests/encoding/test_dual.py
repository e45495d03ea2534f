import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from care_accel import CareError, DualEncoder

TEXTS = ["头痛怎么办", "高血压患者应低盐饮食"]


def test_each_encoder_is_loaded_when_it_is_first_used(tiny_folders, monkeypatch):
    from care_accel.encoding.loading.checkpoint import Checkpoint

    loaded, load = [], Checkpoint.load_network
    monkeypatch.setattr(
        Checkpoint, "load_network", lambda c, d: (loaded.append(c.folder.name), load(c, d))[1]
    )
    model = DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset="care",
        runtime="pytorch",
    )
    model.encode_query(TEXTS)
    model.encode_query(TEXTS)
    assert loaded == ["query_encoder"]
    model.encode_document(TEXTS)
    assert loaded == ["query_encoder", "document_encoder"]


def test_care_vectors_are_shorter_than_one_by_differing_amounts(tiny_model):
    norms = np.linalg.norm(tiny_model.encode_document(TEXTS), axis=1)
    assert (norms < 0.999).all()
    assert norms[0] != pytest.approx(norms[1], abs=1e-4)


def test_a_saved_model_comes_back_with_the_same_vectors_and_revisions(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "pair", name="my-pair")
    again = DualEncoder.from_pretrained(tmp_path / "pair", runtime="pytorch")
    assert again.name == "my-pair"
    for role in ("query", "document"):
        assert again.revision(role) == tiny_model.revision(role)
    np.testing.assert_array_equal(again.encode_query(TEXTS), tiny_model.encode_query(TEXTS))
    np.testing.assert_array_equal(again.encode_document(TEXTS), tiny_model.encode_document(TEXTS))


def test_a_folder_that_holds_something_else_is_not_replaced(tiny_model, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    with pytest.raises(CareError, match=r"letters exists and has no care\.json"):
        tiny_model.save_pretrained(tmp_path / "letters")
    assert (tmp_path / "letters" / "dear.txt").read_text() == "keep me"


@pytest.mark.parametrize("role", ["query", "document"])
def test_the_twin_has_one_network_and_the_prompts_of_both_roles(tiny_model, role):
    twin = tiny_model.twin(role)
    assert twin.symmetric
    assert not tiny_model.symmetric
    assert twin.name == f"{tiny_model.name}-{role}-twin"
    assert twin.encoder("query").runtime.network is twin.encoder("document").runtime.network
    for side in ("query", "document"):
        assert twin.spec(side).prompts == tiny_model.spec(side).prompts
        assert twin.spec(side).pooling == tiny_model.spec(role).pooling
    encode = {"query": twin.encode_query, "document": twin.encode_document}[role]
    same = {"query": tiny_model.encode_query, "document": tiny_model.encode_document}[role]
    np.testing.assert_array_equal(encode(TEXTS), same(TEXTS))


def test_a_symmetric_model_has_one_network_and_is_saved_once(tiny_folders, tmp_path):
    folder = tiny_folders / "query_encoder"
    model = DualEncoder.from_pretrained(query=folder, document=folder, preset="care", runtime="pytorch")
    assert model.symmetric
    np.testing.assert_array_equal(
        model.encode_query("头痛", task="sts"), model.encode_document("头痛", task="sts")
    )
    assert model.encoder("query").runtime.network is model.encoder("document").runtime.network
    model.save_pretrained(tmp_path / "one")
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["care.json", "query_encoder"]
    assert DualEncoder.from_pretrained(tmp_path / "one").symmetric


def test_a_revision_follows_weights_and_spec(tiny_folders):
    folders = {"query": tiny_folders / "query_encoder", "document": tiny_folders / "document_encoder"}
    revisions = {
        DualEncoder.from_pretrained(**folders, **o).revision("document")
        for o in ({}, {"preset": "care"}, {"width": 8}, {"max_tokens": 9})
    }
    assert len(revisions) == 4
    same = [
        DualEncoder.from_pretrained(**folders, dtype=d).revision("query") for d in ("float32", "bfloat16")
    ]
    assert same[0] == same[1]


def test_half_precision_gives_float32_vectors_close_by(tiny_folders):
    folders = {"query": tiny_folders / "query_encoder", "document": tiny_folders / "document_encoder"}
    full, half = (
        DualEncoder.from_pretrained(**folders, dtype=d).encode_query(TEXTS) for d in ("float32", "bfloat16")
    )
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.05)


def test_threads_that_ask_first_together_load_the_network_once(tiny_model, monkeypatch):
    loads, load = [], type(tiny_model)._load

    def slowly(model, role):
        loads.append(role)
        time.sleep(0.05)
        return load(model, role)

    monkeypatch.setattr(type(tiny_model), "_load", slowly)
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(tiny_model.encode_query, ["头痛"] * 8))
    assert loads == ["query"]
    for vector in vectors:
        np.testing.assert_array_equal(vector, vectors[0])


def test_a_model_with_a_manifest_names_its_revisions_without_reading_weights(
    tiny_model, tmp_path, monkeypatch
):
    tiny_model.save_pretrained(tmp_path / "saved")
    expected = tiny_model.revision("document")
    monkeypatch.setattr("care_accel.encoding.loading.checkpoint.hashlib", None)
    assert DualEncoder.from_pretrained(tmp_path / "saved").revision("document") == expected


def test_compiled_layers_are_asked_of_the_runtime_and_of_the_twin_s(tiny_folders, monkeypatch):
    from care_accel.encoding import dual

    asked, runtime = [], dual.PyTorchRuntime
    monkeypatch.setattr(
        dual, "PyTorchRuntime", lambda *given, compiled: (asked.append(compiled), runtime(*given))[1]
    )
    monkeypatch.setattr("care_accel.encoding.choice.resolve_device", lambda device: "cuda")
    folders = {role: tiny_folders / f"{role}_encoder" for role in ("query", "document")}
    for compiled in (False, True):
        model = DualEncoder.from_pretrained(**folders, preset="care", runtime="pytorch", compiled=compiled)
        model.encoder("query")
        model.twin().encoder("document")
    assert asked == [False, False, True, True]


def test_the_default_is_recorded_by_its_name():
    assert DualEncoder.from_pretrained().loaded_with == {"model": "care-mini"}
    assert DualEncoder.from_pretrained(width=64).loaded_with == {"model": "care-mini", "width": 64}
