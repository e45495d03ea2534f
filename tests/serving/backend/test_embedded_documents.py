"""Documents of an embedded data set: encoded once on a machine, for all models and later starts."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from care_accel import CareError, ExactIndex, Retriever
from care_accel.serving.backend import RUN_FOLDER, embedded_documents
from care_accel.serving.backend.live_index import RecordedModel


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return how often they were encoded; the cache is empty."""
    made = []

    def encode(backend, made_by, file):
        made.append(file.name)
        time.sleep(0.1)
        index = ExactIndex(8)
        index.add(np.random.default_rng(0).standard_normal((50, 8), np.float32))
        return Retriever(made_by, index, [{"title": f"第{i}号"} for i in range(50)])

    monkeypatch.setattr(embedded_documents, "_encode", encode)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(RUN_FOLDER, str(tmp_path))
    return made


def opened(revision="r", **options):
    backend = SimpleNamespace(parameters={"load": {"model": "m", **options}}, device="cpu")
    found = embedded_documents.embedded_documents(backend, RecordedModel("m", 8, revision), "care-demo")
    assert [found.document(i) for i in (0, 49)] == [{"title": "第0号"}, {"title": "第49号"}]
    return found


def test_models_and_later_starts_encode_them_once(made):
    threads = [threading.Thread(target=opened) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened()
    assert made == ["corpus.jsonl"]


@pytest.mark.parametrize("other", [{"revision": "s"}, {"dtype": "float32"}])
def test_another_model_or_another_way_to_load_it_has_vectors_of_its_own(made, other):
    for options in ({}, other, {}, other):
        opened(**options)
    assert len(made) == 2


def test_damaged_ones_are_made_again(made, tmp_path):
    opened()
    (file,) = (tmp_path / "cache").rglob("retriever.json")
    file.write_text("{")
    opened()
    opened()
    assert len(made) == 2


def test_without_a_cache_they_are_in_the_server_s_folder(made, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file")
    opened()
    opened()
    assert len(made) == 1
    monkeypatch.delenv(RUN_FOLDER)
    opened()
    assert len(made) == 2


def test_without_a_home_folder_they_are_in_the_server_s_folder(made, tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    opened()
    opened()
    assert len(made) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), CareError("cannot be written")])
def test_with_a_full_disk_they_are_encoded_at_each_start(made, monkeypatch, problem):
    def full(*_, **__):
        raise problem

    monkeypatch.setattr(embedded_documents.Retriever, "save", full)
    opened()
    assert len(made) == 1
