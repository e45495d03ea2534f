"""Pickles and copies of models: they hold where the files are, and the files must be the same."""

import copy
import gc
import hashlib
import multiprocessing.resource_tracker
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from care_accel import CareError, DualEncoder
from care_accel.encoding import Encoder

TEXTS = ["头痛怎么办", "高血压患者应低盐饮食"]
RUNTIMES = ["auto", "pytorch"]


@pytest.fixture
def folders(tiny_folders, tmp_path):
    found = {role: f"{role}_encoder" for role in ("query", "document")}
    return {role: shutil.copytree(tiny_folders / name, tmp_path / name) for role, name in found.items()}


def change_weights(folder):
    file = folder / "model.safetensors"
    save_file({k: v * 1.5 for k, v in load_file(file).items()}, file, metadata={"format": "pt"})


def again(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("loaded", [True, False])
def test_a_pickled_model_is_the_same_with_its_options(folders, runtime, loaded):
    model = DualEncoder.from_pretrained(
        **folders, preset="care", width=20, max_tokens=30, runtime=runtime, device="cpu"
    )
    if loaded:
        model.encode_query(TEXTS)
    found = again(model)
    assert repr(found) == repr(model)
    for role in ("query", "document"):
        assert found.revision(role) == model.revision(role)
        assert found.spec(role) == model.spec(role)
        assert found.choice(role).runtime == model.choice(role).runtime
        np.testing.assert_array_equal(found.encoder(role).encode(TEXTS), model.encoder(role).encode(TEXTS))
    twice = again(found)
    np.testing.assert_array_equal(twice.encode_query(TEXTS), model.encode_query(TEXTS))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("role", ["query", "document"])
def test_a_pickled_encoder_and_its_runtime_are_loaded_again(folders, runtime, role):
    model = DualEncoder.from_pretrained(**folders, preset="care", runtime=runtime, device="cpu")
    encoder = model.encoder(role)
    found = again(encoder)
    np.testing.assert_array_equal(found.encode(TEXTS), encoder.encode(TEXTS))
    ids, mask = encoder.pad(encoder.tokenize(TEXTS))
    np.testing.assert_array_equal(again(encoder.runtime)(ids, mask), encoder.runtime(ids, mask))
    np.testing.assert_array_equal(copy.deepcopy(encoder.runtime)(ids, mask), encoder.runtime(ids, mask))


def test_a_pickle_holds_no_weights(folders):
    model = DualEncoder.from_pretrained(**folders)
    model.encode_query(TEXTS)
    model.encode_document(TEXTS)
    for value in (model, model.encoder("query"), model.encoder("document"), model.encoder("query").runtime):
        assert len(pickle.dumps(value)) < 2000 < (folders["query"] / "model.safetensors").stat().st_size


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_a_model_that_changed_on_disk_is_refused_by_its_pickle(folders, tmp_path, saved, whole):
    model = DualEncoder.from_pretrained(**folders)
    if saved:
        model.save_pretrained(tmp_path / "saved")
        model = DualEncoder.from_pretrained(tmp_path / "saved")
    pickled = pickle.dumps(model if whole else model.encoder("document"))
    folder = model.source("document").checkpoint.folder
    for file in folder.iterdir():
        file.touch()  # a file that was only copied is the same
    pickle.loads(pickled)
    change_weights(folder)
    words = r"the files do not match care\.json" if saved else "the files changed since the model was pickled"
    with pytest.raises(CareError, match=words) as error:
        pickle.loads(pickled)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    shutil.rmtree(folder)
    with pytest.raises(CareError, match="no such folder"):
        pickle.loads(pickled)


def test_a_change_after_loading_is_refused_when_pickling_as_memory_and_disk_differ(folders):
    model = DualEncoder.from_pretrained(**folders)
    model.encode_query(TEXTS)
    change_weights(folders["query"])
    with pytest.raises(
        CareError, match="changed since the model was loaded; load it again with from_pretrained"
    ):
        pickle.dumps(model)


def test_a_change_between_opening_a_pickle_and_its_first_use_is_refused(folders):
    found = again(DualEncoder.from_pretrained(**folders))
    change_weights(folders["query"])
    with pytest.raises(CareError, match="changed since the model was pickled"):
        found.encode_query(TEXTS)


def test_a_pickle_is_opened_in_another_folder(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickled = pickle.dumps(DualEncoder.from_pretrained(query="query_encoder", document="document_encoder"))
    monkeypatch.chdir("/")
    assert pickle.loads(pickled).encode_query(TEXTS).shape == (2, 32)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_shares_networks_and_counts_on_its_own(folders, copied):
    model = DualEncoder.from_pretrained(**folders, device="cpu")
    expected = model.encode_query(TEXTS)
    found = copied(model)
    assert found.encoder("query").runtime is model.encoder("query").runtime
    np.testing.assert_array_equal(found.encode_query(TEXTS), expected)
    encoder = copied(found.encoder("query"))
    np.testing.assert_array_equal(encoder.encode(TEXTS), expected)
    assert [m.encoder("query").counts.texts for m in (model, found)] == [2, 4]
    assert (encoder.counts.texts, encoder.spec) == (6, model.spec("query"))
    np.testing.assert_array_equal(found.encode_document(TEXTS), model.encode_document(TEXTS))


def test_a_symmetric_model_is_hashed_once_and_stays_symmetric(folders, monkeypatch):
    folder = folders["query"]
    model = DualEncoder.from_pretrained(query=folder, document=folder, runtime="pytorch")
    files, hashed = len(model.source("query").checkpoint.signature), []
    counted = SimpleNamespace(sha256=lambda: (hashed.append(1), hashlib.sha256())[1])
    monkeypatch.setattr("care_accel.encoding.loading.checkpoint.hashlib", counted)
    pickled = pickle.dumps(model)
    assert len(hashed) == files + 1
    found = pickle.loads(pickled)
    assert len(hashed) == files + 1
    assert found.symmetric
    assert found.encoder("query").runtime.network is found.encoder("document").runtime.network


def test_an_encoder_made_by_hand_says_why_it_cannot_be_pickled(tiny_model):
    loaded = tiny_model.encoder("query")
    made = Encoder(loaded.spec, loaded.tokenizer, loaded.runtime)
    with pytest.raises(CareError, match="was not loaded from a folder"):
        pickle.dumps(made)
    np.testing.assert_array_equal(copy.deepcopy(made).encode(TEXTS), loaded.encode(TEXTS))


def in_another_process(*calls):
    """Call methods, which are pickled with their objects, in a process that inherits nothing from this one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = [pool.apply(call, (TEXTS,)) for call in calls]
        pool.terminate()
        pool.join()
    return found


@pytest.mark.slow
def test_a_worker_of_another_process_gets_the_same_vectors(folders):
    model = DualEncoder.from_pretrained(**folders, device="cpu")
    expected = model.encode_query(TEXTS)
    for found in in_another_process(model.encode_query, model.encoder("query").encode):
        np.testing.assert_array_equal(found, expected)
    gc.collect()  # the pool's semaphores go before their tracker, which would run as long as this process
    multiprocessing.resource_tracker._resource_tracker._stop()
