"""Dense modules of sentence-transformers: part of a spec, a fingerprint, a saved folder and a graph."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling

from care_accel import CareError, DualEncoder
from care_accel.encoding.loading.router_writer import write_router_format

TEXTS = ["头痛怎么办", "高血压患者应低盐饮食，遵医嘱服用降压药", "咳嗽"]


def library(folder, encoder, *head, pooling="mean", **options):
    """Write a folder of the library, and return its model."""
    transformer = Transformer(str(encoder))
    transformer.tokenizer.padding_side = "right"
    torch.manual_seed(3)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), pooling), *head]
    model = SentenceTransformer(modules=modules, **options)
    model.save(str(folder), create_model_card=False)
    return model


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


HEADS = {
    "tanh": lambda: [Dense(32, 12), Normalize()],
    "without a Normalize": lambda: [Dense(32, 12)],
    "without bias or activation": lambda: [Dense(32, 12, bias=False, activation_function=None)],
    "wider than the network": lambda: [Dense(32, 80, activation_function=torch.nn.ReLU()), Normalize()],
    "gelu": lambda: [Dense(32, 12, activation_function=torch.nn.GELU()), Normalize()],
    "sigmoid": lambda: [Dense(32, 12, activation_function=torch.nn.Sigmoid()), Normalize()],
    "silu": lambda: [Dense(32, 12, activation_function=torch.nn.SiLU()), Normalize()],
    "two": lambda: [Dense(32, 64, False, None), Dense(64, 20, False, None), Normalize()],
    "between two Normalizes": lambda: [Normalize(), Dense(32, 12), Normalize()],
    "each normalised": lambda: [Normalize(), Dense(32, 16), Normalize(), Dense(16, 8)],
}


@pytest.mark.parametrize("head", HEADS)
def test_dense_modules_give_the_library_s_vectors_alone_and_in_any_batch(tiny_folders, tmp_path, head):
    expected = library(tmp_path / "m", tiny_folders / "query_encoder", *HEADS[head]())
    model = DualEncoder.from_pretrained(tmp_path / "m")
    assert model.width == expected.get_embedding_dimension()
    vectors = unit(expected.encode(TEXTS))
    np.testing.assert_allclose(model.encode_document(TEXTS), vectors, atol=1e-6)
    np.testing.assert_allclose([model.encode_query(t) for t in TEXTS], vectors, atol=1e-6)


def test_they_follow_the_last_layer_s_one_token_and_a_slice(tiny_folders, tmp_path):
    expected = library(
        tmp_path / "m",
        tiny_folders / "query_encoder",
        *HEADS["two"](),
        pooling="cls",
        truncate_dim=7,
        similarity_fn_name="dot",
    )
    model = DualEncoder.from_pretrained(tmp_path / "m", runtime="pytorch")
    assert model.encoder("query").runtime._encode.trimmed
    assert (model.width, model.spec("query").order) == (7, "normalize-then-slice")
    np.testing.assert_allclose(model.encode_query(TEXTS), expected.encode(TEXTS), atol=1e-6)
    assert DualEncoder.from_pretrained(tmp_path / "m", width=5).encode_query("头痛").shape == (5,)
    with pytest.raises(CareError, match="width is 21, but the last dense layer has 20 outputs"):
        DualEncoder.from_pretrained(tmp_path / "m", width=21)


def test_auto_does_not_take_a_runtime_that_has_no_dense_layers(tiny_folders, tmp_path):
    library(tmp_path / "m", tiny_folders / "query_encoder", *HEADS["tanh"]())
    model = DualEncoder.from_pretrained(tmp_path / "m", device="cpu")
    choice = model.choice("query")
    assert choice.runtime == "pytorch"
    assert "dense layers" in choice.rejected["native"]
    for change in ({"runtime": "native"}, {"dtype": "int8"}):
        with pytest.raises(CareError, match=r"native.* does not run dense layers after pooling"):
            DualEncoder.from_pretrained(tmp_path / "m", device="cpu", **change).encode_query("头痛")


def test_routes_have_their_own_dense_layers_and_those_after_the_router(make_encoder, tiny_folders, tmp_path):
    def route(folder, size, mode):
        transformer = Transformer(str(folder))
        transformer.tokenizer.padding_side = "right"
        return [transformer, Pooling(size, mode), Dense(size, 24)]

    torch.manual_seed(1)
    query, document = tiny_folders / "query_encoder", tiny_folders / "document_encoder"
    router = Router.for_query_document(route(query, 32, "cls"), route(document, 48, "lasttoken"))
    expected = SentenceTransformer(modules=[router, Dense(24, 10), Normalize()], similarity_fn_name="dot")
    expected.save(str(tmp_path / "pair"))
    model = DualEncoder.from_pretrained(tmp_path / "pair")
    assert [len(model.spec(role).dense) for role in ("query", "document")] == [2, 2]
    np.testing.assert_allclose(model.encode_query(TEXTS), expected.encode_query(TEXTS), atol=1e-6)
    np.testing.assert_allclose(model.encode_document(TEXTS), expected.encode_document(TEXTS), atol=1e-6)


def test_a_saved_model_has_the_same_vectors_and_revision_and_its_fingerprint_follows_the_weights(
    tiny_folders, tmp_path
):
    library(tmp_path / "m", tiny_folders / "query_encoder", *HEADS["each normalised"]())
    model = DualEncoder.from_pretrained(tmp_path / "m")
    model.save_pretrained(tmp_path / "saved")
    again = DualEncoder.from_pretrained(tmp_path / "saved")
    assert again.spec("query").dense == model.spec("query").dense
    assert again.revision("document") == model.revision("document")
    np.testing.assert_array_equal(again.encode_query(TEXTS), model.encode_query(TEXTS))
    again.save_pretrained(tmp_path / "twice")
    assert DualEncoder.from_pretrained(tmp_path / "twice").revision("query") == model.revision("query")
    layer = tmp_path / "saved" / "query_encoder" / "dense" / "01.safetensors"
    save_file({k: v + 1 for k, v in load_file(layer).items()}, layer)
    with pytest.raises(CareError, match=r"the files do not match care\.json"):
        DualEncoder.from_pretrained(tmp_path / "saved").encode_query("头痛")
    (tmp_path / "saved/query_encoder/modules.json").unlink()
    with pytest.raises(CareError, match="2 dense layers, but its spec has 0; open the model by the folder"):
        DualEncoder.from_pretrained(**dict.fromkeys(("query", "document"), tmp_path / "saved/query_encoder"))


def test_the_library_reads_what_is_written_in_its_format(tiny_folders, tmp_path):
    library(tmp_path / "m", tiny_folders / "query_encoder", *HEADS["each normalised"]())
    model = DualEncoder.from_pretrained(tmp_path / "m")
    write_router_format(model, tmp_path / "router")
    again = SentenceTransformer(str(tmp_path / "router"))
    np.testing.assert_allclose(again.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)
    back = DualEncoder.from_pretrained(tmp_path / "router")
    np.testing.assert_allclose(back.encode_query(TEXTS), model.encode_query(TEXTS), atol=1e-6)


@pytest.fixture
def folder(tiny_folders, tmp_path):
    library(tmp_path / "m", tiny_folders / "query_encoder", *HEADS["tanh"]())
    return tmp_path / "m"


def configure(folder, **values):
    file = folder / "2_Dense/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda f: configure(f, activation_function="os.system"),
            "activation_function 'os.system' is not supp",
        ),
        (
            lambda f: configure(f, activation_function="torch.nn.Softmax"),
            "the supported ones are Identity, Tanh",
        ),
        (lambda f: configure(f, module_input_name="token_embeddings"), "only 'sentence_embedding' is"),
        (lambda f: configure(f, module_output_name="other"), "module_output_name 'other' is not supported"),
        (lambda f: configure(f, use_residual=True), "use_residual True is not supported"),
        (lambda f: configure(f, out_features="12"), "config.json: dense width is '12'"),
        (lambda f: configure(f, out_features=13), r"linear.weight \[13, 32\], but the file has .*\[12, 32\]"),
        (lambda f: configure(f, bias=False), r"but the file has linear.bias \[12\]"),
        (lambda f: (f / "2_Dense/config.json").unlink(), "a Dense module needs it"),
        (
            lambda f: (f / "2_Dense/model.safetensors").rename(f / "2_Dense/pytorch_model.bin"),
            "read from safetensors only: load and save the model with sentence-transformers",
        ),
        (lambda f: (f / "2_Dense/model.safetensors").write_bytes(b"no"), "cannot be read as safetensors"),
        (lambda f: shutil.rmtree(f / "2_Dense"), "no such file"),
    ],
)
def test_a_dense_module_that_cannot_work_is_one_line(folder, damage, words):
    damage(folder)
    with pytest.raises(CareError, match=words) as error:
        DualEncoder.from_pretrained(folder)
    assert str(folder / "2_Dense") in str(error.value)
    assert "\n" not in str(error.value)


def test_dot_products_after_an_unnormalised_dense_module_are_refused(tiny_folders, tmp_path):
    library(
        tmp_path / "m", tiny_folders / "query_encoder", Normalize(), Dense(32, 8), similarity_fn_name="dot"
    )
    with pytest.raises(CareError, match="similarity 'dot' on unnormalised vectors"):
        DualEncoder.from_pretrained(tmp_path / "m")


def test_a_module_that_is_not_known_is_named(tiny_folders, tmp_path):
    from sentence_transformers.sentence_transformer.modules import Dropout

    library(tmp_path / "m", tiny_folders / "query_encoder", Dropout(0.1), Normalize())
    with pytest.raises(
        CareError, match="Transformer, Pooling, Dropout, Normalize; only Transformer, Pooling, then any"
    ):
        DualEncoder.from_pretrained(tmp_path / "m")
