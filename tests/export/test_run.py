import json
import shutil

import numpy as np
import pytest

from care_accel import CareError, DualEncoder
from care_accel.encoding import choice
from care_accel.export import Limits, export

TEXTS = ["头痛", "高血压患者应低盐饮食，遵医嘱服用降压药", "", "血糖高吃什么？" * 5]


@pytest.fixture
def without_native(monkeypatch):
    """Take the own engine away: it is faster than what is exported."""
    monkeypatch.setattr(choice, "_NATIVE", "care_accel.encoding.runtimes.nothing")


@pytest.mark.usefixtures("without_native")
def test_an_exported_model_is_taken_by_auto_and_has_the_original_s_vectors(exported, original):
    model = DualEncoder.from_pretrained(exported, runtime="onnx")
    for role in ("query", "document"):
        assert model.choice(role).runtime == "onnx"
        assert type(model.encoder(role).runtime).__name__ == "OnnxRuntime"
        np.testing.assert_allclose(
            model.encoder(role).encode(TEXTS), original.encoder(role).encode(TEXTS), atol=1e-5
        )
        assert model.revision(role) == original.revision(role)
    assert DualEncoder.from_pretrained(exported, device="cpu").choice("document").runtime == "onnx"


def test_a_text_s_vector_does_not_depend_on_its_neighbours(exported):
    encoder = DualEncoder.from_pretrained(exported, runtime="onnx").encoder("document")
    alone = np.stack([encoder.encode(text) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)


def test_the_figures_and_their_limits_are_kept_beside_the_export(exported):
    values = json.loads((exported / "query_encoder" / "runtimes" / "onnx" / "export.json").read_text())
    assert values["batch_invariant"] is True
    assert values["gate"]["limits"]["worst_cosine"] == 0.995
    assert values["gate"]["figures"]["query"]["worst_cosine"] > 0.99999
    assert values["versions"]["onnxruntime"]


def test_a_model_with_dense_layers_is_exported_and_taken_by_auto(tiny_folders, dev, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    transformer = Transformer(str(tiny_folders / "query_encoder"))
    modules = [transformer, Pooling(32, "mean", include_prompt=False), Dense(32, 12), Normalize()]
    SentenceTransformer(modules=modules, prompts={"query": "感冒发热，"}).save(str(tmp_path / "m"))
    original = DualEncoder.from_pretrained(tmp_path / "m", device="cpu")
    export(original, tmp_path / "exported", runtime="onnx", dev=dev)
    model = DualEncoder.from_pretrained(tmp_path / "exported", device="cpu")
    for role in ("query", "document"):
        assert model.choice(role).runtime == "onnx"
        assert "dense layers" in model.choice(role).rejected["native"]
        assert model.revision(role) == original.revision(role)
        found, expected = model.encoder(role).encode(TEXTS), original.encoder(role).encode(TEXTS)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    file = tmp_path / "exported/query_encoder/runtimes/onnx/export.json"
    values = json.loads(file.read_text())
    values["spec"]["dense"][0]["activation"] = "relu"
    file.write_text(json.dumps(values))
    with pytest.raises(CareError, match=r"its export has dense .*relu.*, not .*tanh"):
        DualEncoder.from_pretrained(tmp_path / "exported", runtime="onnx").encode_query("头痛")


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"worst_cosine": 1.5}, r"worst cosine 1\.00000 is below 1\.5"),
        ({"top10_overlap": 1.5}, r"top-10 overlap 1\.0000 is below 1\.5"),
        ({"ndcg_change": -1.0}, r"nDCG@10 went from [\d.]+ to [\d.]+, more than -1 points"),
        ({"batch_change": -1.0}, "with the other texts in the batch, more than -1"),
    ],
)
def test_beyond_a_limit_nothing_is_written_and_what_was_there_stays(
    exported, original, dev, tmp_path, limits, words
):
    there = tmp_path / "there"
    shutil.copytree(exported, there)
    before = {f: f.stat().st_mtime_ns for f in there.rglob("*")}
    with pytest.raises(CareError, match=words):
        export(original, there, runtime="pytorch", dev=dev, limits=Limits(**limits))
    assert {f: f.stat().st_mtime_ns for f in there.rglob("*")} == before
    assert [f.name for f in tmp_path.iterdir()] == ["there"]


@pytest.mark.usefixtures("without_native")
def test_what_depends_on_its_batch_is_written_when_asked_and_never_taken_by_auto(exported, dev, tmp_path):
    place = tmp_path / "pair"
    export(
        DualEncoder.from_pretrained(exported, runtime="pytorch"),
        place,
        runtime="onnx",
        roles=("document",),
        dev=dev,
        limits=Limits(batch_change=-1.0),
        allow_batch_dependence=True,
    )
    model = DualEncoder.from_pretrained(place, device="cpu")
    assert model.choice("document").runtime == "pytorch"
    assert "depend on the other texts" in model.choice("document").rejected["onnx"]
    assert DualEncoder.from_pretrained(place, runtime="onnx").choice("document").runtime == "onnx"


def test_an_export_into_the_model_s_own_folder_keeps_its_other_exports(exported, dev, tmp_path):
    place = tmp_path / "pair"
    shutil.copytree(exported, place)
    export(DualEncoder.from_pretrained(place, runtime="pytorch"), place, runtime="pytorch", dev=dev)
    found = sorted(f.name for f in (place / "query_encoder" / "runtimes").iterdir())
    assert found == ["onnx", "pytorch"]
    assert DualEncoder.from_pretrained(place, runtime="onnx").encode_query("头痛").shape == (24,)


def test_a_symmetric_model_is_exported_once_and_measured_in_both_roles(tiny_folders, dev, tmp_path):
    folder = tiny_folders / "query_encoder"
    model = DualEncoder.from_pretrained(query=folder, document=folder, preset="care", width=24)
    assert set(export(model, tmp_path / "one", runtime="onnx", dev=dev)) == {"query", "document"}
    again = DualEncoder.from_pretrained(tmp_path / "one", runtime="onnx")
    assert again.symmetric
    assert again.encoder("query").runtime is again.encoder("document").runtime


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"runtime": "onnx", "dtype": "int8"}, "onnx supports dtype float32, not int8"),
        ({"runtime": "magic"}, "cannot export for runtime 'magic'"),
        ({"runtime": "tensorrt"}, "tensorrt is not installed"),
    ],
)
def test_what_cannot_be_exported_is_said_before_anything_is_written(original, dev, tmp_path, options, words):
    if options["runtime"] == "tensorrt":
        try:
            import tensorrt  # noqa: F401

            pytest.skip("tensorrt is installed")
        except ImportError:
            pass
    with pytest.raises(CareError, match=words):
        export(original, tmp_path / "out", dev=dev, **options)
    assert list(tmp_path.iterdir()) == []


def test_another_precision_than_an_export_that_is_there_is_refused(exported, dev):
    model = DualEncoder.from_pretrained(exported)
    before = (exported / "care.json").read_bytes()
    with pytest.raises(
        CareError, match="its export for onnx has dtype float32; exporting native in int8 would disable it"
    ):
        export(model, exported, runtime="native", dev=dev)
    assert (exported / "care.json").read_bytes() == before


def test_an_encoder_that_the_own_engine_does_not_know_is_named_before_anything_is_written(
    make_encoder, tiny_folders, dev, tmp_path
):
    unknown = make_encoder(tmp_path / "unknown", "camembert", max_position_embeddings=600)
    model = DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder", document=unknown, preset="care", width=24
    )
    with pytest.raises(CareError, match="networks, not camembert") as refused:
        export(model, tmp_path / "out", runtime="native", roles=("query", "document"), dev=dev)
    assert str(refused.value).startswith(str(unknown))
    assert list(tmp_path.iterdir()) == [unknown]


def test_a_vocabulary_that_was_cut_before_is_refused_by_the_model_s_own_name(original, dev, tmp_path):
    texts = [*dev.queries.values()]
    export(original, tmp_path / "cut", runtime="pytorch", dev=dev, keep=texts)
    with pytest.raises(CareError, match="has a pruned vocabulary") as refused:
        export(
            DualEncoder.from_pretrained(tmp_path / "cut"),
            tmp_path / "out",
            runtime="onnx",
            dev=dev,
            keep=texts,
        )
    assert str(refused.value).startswith(str(tmp_path / "cut"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["cut"]
