import json
import shutil

import numpy as np
import pytest

from care_accel import CareError, DualEncoder
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.export import Limits, export
from care_accel.export.vocabulary import prune_vocabulary

OUTSIDE = "肚子痛咳嗽"
ANYTHING = Limits(worst_cosine=-1, top10_overlap=0, ndcg_change=100)


@pytest.fixture(scope="module")
def inside(dev):
    return [*dev.queries.values(), *dev.documents.values()]


@pytest.fixture(scope="module")
def trimmed(original, dev, inside, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trimmed") / "pair"
    export(original, folder, runtime="onnx", roles=("query", "document"), dev=dev, keep=inside)
    return folder


@pytest.mark.parametrize("runtime", ["pytorch", "onnx"])
@pytest.mark.parametrize("role", ["query", "document"])
def test_texts_inside_the_corpus_keep_their_vectors_under_every_prompt(
    trimmed, original, inside, role, runtime
):
    encoder = DualEncoder.from_pretrained(trimmed, runtime=runtime, device="cpu").encoder(role)
    for task in ("retrieval", "reranking", "sts"):
        expected = original.encoder(role).encode(inside, task=task)
        found = encoder.encode(inside, task=task)
        if runtime == "pytorch":
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert encoder.counts.unknown_tokens == encoder.counts.with_unknown_tokens == 0


def test_the_rows_kept_are_the_original_s_bit_for_bit_and_fewer(trimmed, original):
    for role in ("query", "document"):
        checkpoint = Checkpoint(trimmed / f"{role}_encoder")
        whole = original.source(role).checkpoint.load_network("float32").get_input_embeddings().weight
        rows = checkpoint.load_network("float32").get_input_embeddings().weight
        vocabulary = checkpoint.load_vocabulary()
        assert len(rows) == vocabulary.kept < len(whole)
        np.testing.assert_array_equal(rows.detach(), whole.detach()[vocabulary.ids])


def test_other_tokens_become_the_unknown_one_and_are_counted_and_said_once(trimmed, original, caplog):
    encoder = DualEncoder.from_pretrained(trimmed, runtime="pytorch").encoder("query")
    found = encoder.encode([OUTSIDE, "高血压怎么治", OUTSIDE])
    encoder.encode(OUTSIDE)
    assert encoder.counts.with_unknown_tokens == 3
    assert encoder.counts.unknown_tokens % 3 == 0
    assert sum("outside the pruned vocabulary" in record.message for record in caplog.records) == 1
    # The same as the original gives for those ids with the unknown token's in their place.
    whole = original.encoder("query")
    (ids,) = whole.tokenize([OUTSIDE])
    kept = set(encoder.vocabulary.ids.tolist())
    replaced = [i if i in kept else whole.tokenizer.unk_token_id for i in ids]
    assert replaced != ids
    np.testing.assert_allclose(found[0], whole.encode_tokens([replaced])[0], atol=1e-6)


def test_the_tokenizer_s_files_stay_as_they_were(trimmed, tiny_folders):
    for role in ("query", "document"):
        name = f"{role}_encoder/tokenizer.json"
        assert (trimmed / name).read_bytes() == (tiny_folders / name).read_bytes()


def test_the_revision_is_another_than_the_whole_model_s(trimmed, original):
    model = DualEncoder.from_pretrained(trimmed, runtime="pytorch")
    assert model.revision("query") != original.revision("query")
    model.encoder("query")  # whose fingerprint the manifest recorded


def test_a_corpus_that_the_sample_is_not_of_is_refused_by_the_gate(original, dev, tmp_path):
    with pytest.raises(CareError, match="worst cosine"):
        export(
            original,
            tmp_path / "out",
            runtime="pytorch",
            dev=dev,
            keep=[OUTSIDE],
            limits=Limits(worst_cosine=0.999999),  # random networks tell texts apart but little
        )
    figures = export(original, tmp_path / "out", runtime="pytorch", dev=dev, keep=[OUTSIDE], limits=ANYTHING)
    assert figures["query"].with_unknown_tokens == 3


def test_exports_of_the_whole_vocabulary_do_not_stay_beside_the_cut_one(exported, dev, inside, tmp_path):
    export(
        DualEncoder.from_pretrained(exported, runtime="pytorch"),
        tmp_path / "out",
        runtime="pytorch",
        dev=dev,
        keep=inside,
    )
    runtimes = tmp_path / "out" / "query_encoder" / "runtimes"
    assert [f.name for f in runtimes.iterdir()] == ["pytorch"]
    assert (
        tmp_path / "out" / "document_encoder" / "runtimes" / "onnx"
    ).is_dir()  # its role was not asked for


def test_a_cut_model_is_not_cut_again_nor_written_as_a_router(trimmed, original, inside, tmp_path):
    from care_accel.encoding.loading.router_writer import write_router_format

    shutil.copytree(trimmed / "query_encoder", tmp_path / "copy")
    with pytest.raises(CareError, match="the model it was exported from"):
        prune_vocabulary(tmp_path / "copy", [original.spec("query")], inside)
    with pytest.raises(CareError, match="has a pruned vocabulary"):
        write_router_format(DualEncoder.from_pretrained(trimmed, runtime="pytorch"), tmp_path / "router")


def test_a_vocabulary_of_another_network_is_refused(trimmed, tmp_path):
    shutil.copytree(trimmed / "query_encoder", tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"vocab_size": 1000}))
    with pytest.raises(CareError, match="pruned vocabulary has"):
        Checkpoint(tmp_path / "copy").load_vocabulary()


@pytest.mark.parametrize("runtime", ["native", "pytorch"])
def test_a_network_that_numbers_positions_from_the_padding_id_keeps_them(
    make_encoder, inside, tmp_path, runtime
):
    folder = make_encoder(tmp_path / "whole", "roberta", pad_token_id=30, max_position_embeddings=600)
    whole = DualEncoder.from_pretrained(query=folder, document=folder, preset="care", runtime="pytorch")
    shutil.copytree(folder, tmp_path / "cut")
    vocabulary = prune_vocabulary(tmp_path / "cut", [whole.spec("query")], inside[:2])
    assert vocabulary.rows[30] == 30
    assert vocabulary.kept < len(vocabulary.rows)
    cut = DualEncoder.from_pretrained(
        query=tmp_path / "cut", document=tmp_path / "cut", preset="care", runtime=runtime
    )
    np.testing.assert_allclose(cut.encode_query(inside[:2]), whole.encode_query(inside[:2]), atol=1e-5)
