from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from care_accel import CareError, DualEncoder
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.dense import store_random, stored_files
from care_accel.encoding.loading.sources import Source, Sources
from care_accel.encoding.spec import Dense
from care_accel.training.recipe import DataFile, Lora, Stage
from care_accel.training.router import Slice, build_library_model, save_trained

TEXTS = ["高血压怎么治", "骨折", "感冒发热怎么办，多饮水休息"]


def stage(**fields):
    return Stage(name="s", data=[DataFile("f")], **fields)


def model_of(tiny_folders, preset):
    return DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset=preset,
        width=20,
    )


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
@pytest.mark.parametrize("preset", ["care", "sentence-transformers"])
def test_training_sees_the_vectors_that_inference_gives(tiny_folders, preset, lora):
    model = model_of(tiny_folders, preset)
    library = build_library_model(model, stage(lora=lora))
    queries = [model.spec("query").format(text, "retrieval") for text in TEXTS]
    np.testing.assert_allclose(library.encode_query(queries), model.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(library.encode_document(TEXTS), model.encode_document(TEXTS), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dense": [Dense(24)], "width": 20}, "dense layers after pooling"),
        ({"include_prompt": False}, "include_prompt"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tiny_folders, tmp_path, change, words):
    store_random(change.get("dense", ()), 32, tmp_path)
    checkpoint = Checkpoint(tiny_folders / "query_encoder", dense=stored_files(tmp_path))
    source = Source(checkpoint, replace(model_of(tiny_folders, "care").spec("query"), **change))
    with pytest.raises(CareError, match=f"{words}.* cannot be trained here"):
        build_library_model(DualEncoder(Sources("m", source, source)), stage())


@pytest.mark.parametrize("role", ["query", "document"])
def test_one_encoder_alone_gives_both_sides(tiny_folders, role):
    model = model_of(tiny_folders, "care")
    library = build_library_model(model, stage(), [role])
    np.testing.assert_allclose(
        library.encode_document(TEXTS),
        model.encoder(role).encode(TEXTS) if role == "document" else library.encode_query(TEXTS),
        atol=1e-5,
    )


def weights_of(model, role):
    return dict(model.source(role).checkpoint.load_network("float32").named_parameters())


@pytest.mark.parametrize("share", [0.125, 0.5])
@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_start_weight_averages_the_trained_weights_with_those_before(tiny_folders, tmp_path, lora, share):
    model = model_of(tiny_folders, "care")
    library = build_library_model(model, stage(lora=lora))
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in library.parameters():
            weights.add_(torch.randn_like(weights), alpha=0.1 * weights.requires_grad)
    trained = save_trained(deepcopy(library), model, stage(), tmp_path / "trained")
    averaged = save_trained(library, model, stage(start_weight=share), tmp_path / "averaged")
    for role in ("query", "document"):
        before, after, found = (weights_of(m, role) for m in (model, trained, averaged))
        assert any(not torch.equal(after[name], before[name]) for name in before)
        for name, weights in found.items():
            expected = (1 - share) * after[name] + share * before[name]
            torch.testing.assert_close(weights, expected, atol=1e-7, rtol=1e-6, msg=name)


def test_lora_trains_the_document_side_s_low_ranks_alone_and_is_merged_at_the_end(tiny_folders, tmp_path):
    model = model_of(tiny_folders, "care")
    library = build_library_model(model, stage(lora=Lora(rank=2, alpha=4.0)))
    trained = [name for name, p in library.named_parameters() if p.requires_grad and "document" in name]
    assert trained
    assert all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, weights in library.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.1)
    expected = library.encode_document(TEXTS)
    merged = save_trained(library, model, stage(), tmp_path)
    np.testing.assert_allclose(merged.encode_document(TEXTS), expected, atol=1e-5)
    assert np.abs(expected - model.encode_document(TEXTS)).max() > 1e-3
    assert not (tmp_path / "document" / "adapter_config.json").exists()


def test_weights_stored_in_half_precision_are_trained_in_single(tiny_folders, tmp_path):
    half = model_of(tiny_folders, "care")
    for role in ("query", "document"):
        checkpoint = half.source(role).checkpoint
        checkpoint.load_network("float16").save_pretrained(tmp_path / role)
        checkpoint.load_tokenizer().save_pretrained(tmp_path / role)
    model = DualEncoder.from_pretrained(
        query=tmp_path / "query", document=tmp_path / "document", preset="care", width=20
    )
    assert {p.dtype for p in build_library_model(model, stage()).parameters()} == {torch.float32}


def test_a_slice_is_kept_in_a_saved_model(tmp_path):
    Slice(3).save(str(tmp_path))
    again = Slice.load(str(tmp_path))
    assert again({"sentence_embedding": torch.ones(2, 5)})["sentence_embedding"].shape == (2, 3)


def test_embeddings_that_are_not_trained_keep_their_values(tiny_folders):
    model = model_of(tiny_folders, "care")
    library = build_library_model(model, stage(train_embeddings=False))
    for role in ("query", "document"):
        network = library[0].sub_modules[role][0].model
        frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
        assert frozen
        assert all("embed" in name for name in frozen)
        assert not network.get_input_embeddings().weight.requires_grad
