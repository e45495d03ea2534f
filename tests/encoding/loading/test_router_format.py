import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from care_accel import CareError, DualEncoder

TEXTS = ["头痛怎么办", "高血压患者应低盐饮食，遵医嘱服用降压药", "咳嗽"]


def modules(folder, mode, normalised=True):
    transformer = Transformer(str(folder))
    transformer.tokenizer.padding_side = "right"
    size = transformer.get_embedding_dimension()
    return [transformer, Pooling(size, pooling_mode=mode), *([Normalize()] if normalised else [])]


@pytest.mark.parametrize("width", [None, 12])
def test_a_router_folder_gives_the_library_s_own_vectors(make_encoder, tmp_path, width):
    query = make_encoder(tmp_path / "q", "gte", seed=3)
    document = make_encoder(tmp_path / "d", "qwen3", seed=4, hidden_size=32)
    router = Router.for_query_document(modules(query, "cls"), modules(document, "lasttoken"))
    library = SentenceTransformer(modules=[router], similarity_fn_name="dot", truncate_dim=width)
    library.save_pretrained(str(tmp_path / "pair"))
    model = DualEncoder.from_pretrained(tmp_path / "pair")
    assert model.width == (width or 32)
    if width:  # at full width both orders are one
        assert {model.spec(role).order for role in ("query", "document")} == {"normalize-then-slice"}
    np.testing.assert_allclose(model.encode_query(TEXTS), library.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), library.encode_document(TEXTS), atol=1e-5)


def test_a_plain_folder_is_a_symmetric_model(make_encoder, tmp_path):
    folder = make_encoder(tmp_path / "one", "gte", seed=5)
    library = SentenceTransformer(modules=modules(folder, "mean"))
    library.save_pretrained(str(tmp_path / "plain"))
    model = DualEncoder.from_pretrained(tmp_path / "plain")
    assert model.symmetric
    np.testing.assert_allclose(model.encode_document(TEXTS), library.encode(TEXTS), atol=1e-5)


def test_a_folder_with_a_broken_list_of_modules_is_one_line(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(CareError) as error:
        DualEncoder.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("width", [None, 12])
@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("score", ["cosine", None])
def test_inner_products_are_the_library_s_cosines(make_encoder, tmp_path, width, normalised, score):
    folder = make_encoder(tmp_path / "one", "gte", seed=5)
    library = SentenceTransformer(
        modules=modules(folder, "cls", normalised), truncate_dim=width, similarity_fn_name=score
    )
    library.save_pretrained(str(tmp_path / "plain"))
    model = DualEncoder.from_pretrained(tmp_path / "plain")
    ours = model.encode_query(TEXTS) @ model.encode_document(TEXTS).T
    vectors = library.encode(TEXTS)
    np.testing.assert_allclose(ours, library.similarity(vectors, vectors), atol=1e-5)


@pytest.mark.parametrize(("score", "normalised"), [("dot", False), ("euclidean", True), ("manhattan", True)])
def test_a_score_that_is_no_inner_product_of_normalised_vectors_is_refused(
    make_encoder, tmp_path, score, normalised
):
    folder = make_encoder(tmp_path / "one", "gte", seed=5)
    library = SentenceTransformer(modules=modules(folder, "mean", normalised), similarity_fn_name=score)
    library.save_pretrained(str(tmp_path / "plain"))
    with pytest.raises(CareError, match=f"similarity '{score}'"):
        DualEncoder.from_pretrained(tmp_path / "plain")


def test_two_folders_of_the_library_follow_their_own_files_unless_a_preset_is_given(make_encoder, tmp_path):
    folder = make_encoder(tmp_path / "one", "gte", seed=5)
    library = SentenceTransformer(modules=modules(folder, "cls"), prompts={"query": "问："})
    library.save_pretrained(str(tmp_path / "plain"))
    two = {"query": tmp_path / "plain", "document": tmp_path / "plain"}
    model = DualEncoder.from_pretrained(**two)
    assert (model.symmetric, model.spec("query").pooling) == (True, "first")
    np.testing.assert_allclose(model.encode_document(TEXTS), library.encode_document(TEXTS), atol=1e-5)
    np.testing.assert_allclose(model.encode_query(TEXTS), library.encode_query(TEXTS), atol=1e-5)
    assert DualEncoder.from_pretrained(**two, preset="sentence-transformers").spec("query").pooling == "mean"
    mixed = DualEncoder.from_pretrained(query=tmp_path / "plain", document=folder)
    assert [mixed.spec(role).pooling for role in ("query", "document")] == ["first", "mean"]
