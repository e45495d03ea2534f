import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, BertConfig, BertModel

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


@pytest.fixture(scope="module")
def bert(tiny_folders, tmp_path_factory):
    """Return a folder of a BERT network whose tokenizer adds tokens around a text."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = AutoTokenizer.from_pretrained(tiny_folders / "query_encoder")
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(t, tokenizer.convert_tokens_to_ids(t)) for t in ("[CLS]", "[SEP]")],
    )
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    torch.manual_seed(4)
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **size)).save_pretrained(
        folder
    )
    return folder


def with_pooling(place, folder, *pooling, head=(), **options):
    transformer = Transformer(str(folder))
    transformer.tokenizer.padding_side = "right"
    size = transformer.get_embedding_dimension()
    made = [transformer, Pooling(size, *pooling), *head, Normalize()]
    model = SentenceTransformer(
        modules=made, prompts={"query": "感冒发热，", "document": ""}, similarity_fn_name="dot"
    )
    model.save(str(place), create_model_card=False)
    return model


@pytest.mark.parametrize("mode", ["cls", "mean", "lasttoken"])
@pytest.mark.parametrize("kind", ["with special tokens", "gte", "qwen3"])
def test_a_prompt_that_is_left_out_of_pooling_gives_the_library_s_vectors(
    bert, tiny_folders, tmp_path, mode, kind
):
    folder = {"gte": "query_encoder", "qwen3": "document_encoder"}.get(kind)
    library = with_pooling(tmp_path / "m", tiny_folders / folder if folder else bert, mode, False)
    model = DualEncoder.from_pretrained(tmp_path / "m", device="cpu")
    assert not model.spec("query").include_prompt
    assert model.choice("query").runtime == "pytorch"
    assert "leave the prompt out of pooling" in model.choice("query").rejected["native"]
    expected = library.encode_query(TEXTS)
    np.testing.assert_allclose(model.encode_query(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose([model.encode_query(text) for text in TEXTS], expected, atol=1e-6)
    np.testing.assert_allclose(model.encode_document(TEXTS), library.encode_document(TEXTS), atol=1e-6)
    pooled = with_pooling(tmp_path / "all", tiny_folders / folder if folder else bert, mode)
    different = np.abs(pooled.encode_query(TEXTS) - expected).max()
    assert (different > 1e-3) == (mode != "lasttoken")


def test_a_prompt_left_out_of_pooling_is_kept_on_disk_and_in_the_library_s_format(bert, tmp_path):
    from care_accel.encoding.loading.router_writer import write_router_format

    with_pooling(tmp_path / "m", bert, "mean", False)
    model = DualEncoder.from_pretrained(tmp_path / "m")
    expected = model.encode_query(TEXTS)
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/care.json").read_text())["query"]["spec"]["include_prompt"] is False
    write_router_format(model, tmp_path / "router")
    for folder in ("saved", "router"):
        again = DualEncoder.from_pretrained(tmp_path / folder)
        np.testing.assert_allclose(again.encode_query(TEXTS), expected, atol=1e-6)
    library = SentenceTransformer(str(tmp_path / "router"))
    np.testing.assert_allclose(library.encode_query(TEXTS), expected, atol=1e-6)


def test_a_text_of_a_prompt_alone_still_has_a_vector_and_tokens_are_counted(tiny_folders, tmp_path):
    with_pooling(tmp_path / "m", tiny_folders / "query_encoder", "mean", False)
    model = DualEncoder.from_pretrained(tmp_path / "m", max_tokens=4)
    encoder = model.encoder("query")
    assert np.isfinite(model.encode_query(["", "头痛", "咳嗽" * 20])).all()
    assert [row.unpooled for row in encoder.tokenize(["", "咳嗽" * 20])] == [3, 3]
    assert encoder.counts.tokens == 12
    _, mask = encoder.pad(encoder.tokenize(["头痛"]), 6)
    assert mask.tolist() == [[2, 2, 2, 1, 0, 0]]


@pytest.mark.parametrize("head", [(), (Normalize(), Dense(32, 8))])
def test_a_mean_by_the_root_of_the_length_is_the_mean_once_normalised(tiny_folders, tmp_path, head):
    library = with_pooling(tmp_path / "m", tiny_folders / "query_encoder", "mean_sqrt_len_tokens", head=head)
    model = DualEncoder.from_pretrained(tmp_path / "m")
    np.testing.assert_allclose(model.encode_document(TEXTS), library.encode_document(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"pooling_mode": "max"},
            "pooling 'max' is not supported; use a model with one of cls, lasttoken, mean",
        ),
        ({"pooling_mode": "weightedmean"}, "pooling 'weightedmean' is not supported"),
        ({"pooling_mode": ["cls", "mean"]}, "the concatenated poolings cls and mean are not supported"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True},
            "concatenated poolings cls and max",
        ),
        ({"pooling_mode_max_tokens": True}, "pooling 'max' is not supported"),
        ({"pooling_mode": []}, r"pooling_mode is \[\]; it must be one of"),
        ({"pooling_mode": {"cls": 1}}, "pooling_mode is"),
        (
            {"pooling_mode": "mean", "include_prompt": "no"},
            "include_prompt is 'no'; it must be true or false",
        ),
    ],
)
def test_a_pooling_that_is_not_supported_is_one_line(tiny_folders, tmp_path, values, words):
    with_pooling(tmp_path / "m", tiny_folders / "query_encoder", "mean")
    (tmp_path / "m/1_Pooling/config.json").write_text(json.dumps(values))
    with pytest.raises(CareError, match=words) as error:
        DualEncoder.from_pretrained(tmp_path / "m")
    assert "1_Pooling/config.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_mean_by_the_root_of_the_length_before_a_dense_module_is_refused(tiny_folders, tmp_path):
    with_pooling(tmp_path / "m", tiny_folders / "query_encoder", "mean_sqrt_len_tokens", head=[Dense(32, 8)])
    with pytest.raises(CareError, match="pooling 'mean_sqrt_len_tokens' is not supported"):
        DualEncoder.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize("values", [{"pooling_mode": ["cls"]}, {"pooling_mode_cls_token": True}])
def test_one_pooling_in_a_list_or_by_an_old_flag_is_that_one(tiny_folders, tmp_path, values):
    with_pooling(tmp_path / "m", tiny_folders / "query_encoder", "mean")
    (tmp_path / "m/1_Pooling/config.json").write_text(json.dumps(values))
    assert DualEncoder.from_pretrained(tmp_path / "m").spec("query").pooling == "first"
