"""Chunks with an encoder that has no tokenizer, such as an inference server's."""

import dataclasses

import pytest

from care_accel import CareError, Collection, DualEncoder
from care_accel.collection.cutting.chunker import Chunker

TEXTS = ["高血压患者应低盐饮食，规律服药。" * 9, "多喝水。", ""]


@pytest.fixture
def manifest(tmp_path):
    return Collection.create(tmp_path / "made", "care-mini", chunk_tokens=32, chunk_overlap=8).manifest


def test_the_recorded_tokenizer_cuts_as_the_encoder_s_own(manifest, monkeypatch):
    own = Chunker(manifest, DualEncoder.from_pretrained("care-mini").encoder("document"))
    monkeypatch.setattr(DualEncoder, "encoder", None)  # no network is loaded
    recorded = Chunker(manifest, object())
    titles = ["血压", "", "空"]
    assert recorded.cut(titles, TEXTS) == own.cut(titles, TEXTS)
    assert len(own.cut(titles, TEXTS)[0][0]) > 2


def test_a_tokenizer_that_is_not_there_or_has_changed_is_one_clear_line(manifest, tmp_path):
    for load, revision, problem in (
        ({}, manifest.revision, "folder of care-mini is not recorded"),
        ({"model": str(tmp_path / "moved")}, manifest.revision, "moved"),
        (manifest.load, "sha256:0", "not sha256:0, which made the collection"),
    ):
        other = dataclasses.replace(manifest, load=load, revision=revision)
        with pytest.raises(CareError, match=problem) as error:
            Chunker(other, object())
        assert str(error.value).startswith("this collection cuts documents into chunks")


@pytest.mark.parametrize("overlap", [True, 8, -1, 2.0])
def test_a_wrong_overlap_leaves_no_collection_behind(tmp_path, overlap):
    with pytest.raises(CareError, match=f"chunk_overlap is {overlap}; it must be 0 to 7"):
        Collection.create(tmp_path / "c", "care-mini", chunk_tokens=8, chunk_overlap=overlap)
    assert not (tmp_path / "c").exists()
