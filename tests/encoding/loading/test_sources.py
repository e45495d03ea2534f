import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hub_mirror import mirror

from care_accel import CareError, DualEncoder
from care_accel.encoding.loading.sources import EMBEDDED

TEXTS = ["头痛怎么办", "高血压患者应低盐饮食"]


def test_the_embedded_model_is_the_default():
    model = DualEncoder.from_pretrained()
    assert model.name == "care-mini"
    kinds = [model.source(role).checkpoint.config_values["model_type"] for role in ("query", "document")]
    assert kinds == ["bert", "bert"]


def test_two_folders_follow_a_preset(tiny_folders):
    folders = {"query": tiny_folders / "query_encoder", "document": str(tiny_folders / "document_encoder")}
    care = DualEncoder.from_pretrained(**folders, preset="care")
    assert (care.spec("query").pooling, care.spec("document").pooling, care.width) == ("first", "last", 32)
    other = DualEncoder.from_pretrained(**folders)
    assert (other.spec("query").pooling, other.spec("document").order) == ("mean", "slice-then-normalize")


@pytest.mark.parametrize("name", ["document_encoder", "doc_encoder"])
def test_the_authors_layout_follows_care(tiny_folders, tmp_path, name):
    shutil.copytree(tiny_folders / "query_encoder", tmp_path / "release" / "query_encoder")
    shutil.copytree(tiny_folders / "document_encoder", tmp_path / "release" / name)
    model = DualEncoder.from_pretrained(tmp_path / "release")
    assert model.spec("document").pooling == "last"
    assert model.name == "release"


def test_a_hub_name_is_downloaded(tiny_folders, monkeypatch):
    asked = []

    def download(name, revision, allow_patterns):
        asked.append((name, revision))
        assert not {"*.bin", "*.py"} & set(allow_patterns)
        return str(tiny_folders)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    model = DualEncoder.from_pretrained("owner/pair", revision="abc")
    assert asked == [("owner/pair", "abc")]
    assert model.encode_query(TEXTS).shape == (2, 32)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def download(*_, **__):
        raise ConnectionError("no\nroute")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(CareError, match=r"owner/pair: no such folder.*no route"):
        DualEncoder.from_pretrained("owner/pair")


def test_a_lora_adapter_is_merged_into_the_base_that_it_names(tiny_folders, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model

    from care_accel.encoding.loading.checkpoint import Checkpoint

    base = tiny_folders / "document_encoder"
    network = Checkpoint(base).load_network("float32")
    torch.manual_seed(0)
    adapted = get_peft_model(network, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "adapter")
    folders = {"query": tiny_folders / "query_encoder", "preset": "care"}
    model = DualEncoder.from_pretrained(document=tmp_path / "adapter", **folders)
    plain = DualEncoder.from_pretrained(document=base, **folders)
    ids = model.encoder("document").tokenize(["头痛"])[0]
    with torch.no_grad():
        state = adapted(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    expected = (state / state.norm())[:32].numpy()
    np.testing.assert_allclose(model.encode_document("头痛"), expected, atol=1e-5)
    assert np.abs(plain.encode_document("头痛") - expected).max() > 1e-3
    assert plain.revision("document") != model.revision("document")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": "nowhere"}, "nowhere: no such folder"),
        ({"model": "a", "query": "b"}, "not both"),
        ({"query": "b"}, "give both"),
        ({"model": "{empty}"}, "no care.json, no modules.json"),
        ({"query": "{q}", "document": "{d}", "preset": "bert"}, "unknown preset 'bert'"),
        (
            {"query": "{q}", "document": "{d}", "width": 33},
            "width 33 exceeds the network's hidden size 32",
        ),
        ({"model": "care-mini", "preset": "care"}, "remove preset='care'"),
    ],
)
def test_what_cannot_be_found_or_fit_is_one_line(tiny_folders, tmp_path, arguments, words):
    places = {"empty": tmp_path, "q": tiny_folders / "query_encoder", "d": tiny_folders / "document_encoder"}
    given = {k: v.format(**places) if isinstance(v, str) else v for k, v in arguments.items()}
    with pytest.raises(CareError, match=words) as error:
        DualEncoder.from_pretrained(**given)
    assert "\n" not in str(error.value)


@pytest.fixture
def saved(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "pair")
    return tmp_path / "pair"


def edit(saved, change):
    manifest = json.loads((saved / "care.json").read_text())
    change(manifest)
    (saved / "care.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(format=99), "format 99 is unknown"),
        (lambda m: m.pop("document"), "'document' must have 'folder' and 'spec'"),
        (lambda m: m["query"].update(folder="../elsewhere"), "is outside"),
        (lambda m: m["query"]["spec"].update(width=8), "width 8, the document encoder 24"),
        (lambda m: m["query"]["spec"].update(pooling="max"), "pooling is 'max'"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused(saved, change, words):
    edit(saved, change)
    with pytest.raises(CareError, match=words):
        DualEncoder.from_pretrained(saved)


def test_files_other_than_the_manifest_recorded_are_refused_when_loaded(saved):
    file = saved / "query_encoder" / "tokenizer_config.json"
    file.write_text(file.read_text() + " ")
    model = DualEncoder.from_pretrained(saved)
    with pytest.raises(CareError, match=r"the files do not match care\.json"):
        model.encode_query("头痛")
    assert model.encode_document("头痛").shape == (24,)


def test_two_folders_may_be_whole_dual_encoders_of_which_each_gives_its_part(saved):
    whole = DualEncoder.from_pretrained(saved)
    parts = DualEncoder.from_pretrained(query=saved, document=saved)
    assert [parts.revision(r) for r in ("query", "document")] == [
        whole.revision(r) for r in ("query", "document")
    ]
    with pytest.raises(CareError, match="already configures the encoders"):
        DualEncoder.from_pretrained(query=saved, document=saved, preset="care")


def test_a_folder_does_not_take_the_embedded_model_s_name(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DualEncoder.from_pretrained(saved).save_pretrained("care-mini")
    assert DualEncoder.from_pretrained().width == DualEncoder.from_pretrained("care-mini").width == 384
    assert DualEncoder.from_pretrained("./care-mini").width == 24


def bert(folder, tiny_folders, kind="Bert"):
    """Write a network with absolute positions, 20 of them, with the tiny tokenizer."""
    import transformers as library

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    tokenizer = library.AutoTokenizer.from_pretrained(tiny_folders / "query_encoder")
    made, network = (getattr(library, f"{kind}{part}") for part in ("Config", "Model"))
    network(
        made(vocab_size=len(tokenizer), max_position_embeddings=20, pad_token_id=0, **sizes)
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "positions"),
    [("Bert", 20), ("Roberta", 19), ("XLMRoberta", 19), ("MPNet", 19), ("Camembert", 19)],
)
def test_no_text_is_longer_than_the_network_has_positions(tiny_folders, tmp_path, kind, positions):
    folder = bert(tmp_path / "bert", tiny_folders, kind)
    model = DualEncoder.from_pretrained(query=folder, document=folder, preset="care")
    assert model.spec("query").max_tokens == positions
    assert np.isfinite(model.encode_query("高血压" * 100)).all()
    with pytest.raises(
        CareError, match=f"max_tokens 64 exceeds the network's maximum of {positions} positions"
    ):
        DualEncoder.from_pretrained(query=folder, document=folder, preset="care", max_tokens=64)


@pytest.mark.parametrize("kind", ["Roberta", "XLMRoberta"])
def test_a_limit_that_is_the_size_of_the_position_table_becomes_what_the_table_holds_and_is_said_once(
    tiny_folders, tmp_path, caplog, kind
):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    network = bert(tmp_path / "roberta", tiny_folders, kind)
    transformer = Transformer(str(network))
    transformer.tokenizer.padding_side = "right"
    library = SentenceTransformer(modules=[transformer, Pooling(16, "mean"), Normalize()])
    library.save(str(tmp_path / "m"))
    assert library.max_seq_length == 20  # with which the library fails at 20 tokens
    models = [DualEncoder.from_pretrained(tmp_path / "m") for _ in range(2)]
    assert models[0].spec("query").max_tokens == 19
    said = [
        line for line in caplog.messages if "max_seq_length is 20, but the network has 19 positions" in line
    ]
    assert len(said) == 1
    assert str(tmp_path / "m") in said[0]
    texts = [*TEXTS, "高" * 19]
    np.testing.assert_allclose(models[0].encode_query(texts), library.encode(texts), atol=1e-6)
    assert np.isfinite(models[0].encode_query("高血压" * 100)).all()
    with pytest.raises(CareError, match="max_tokens 20 exceeds the network's maximum of 19 positions"):
        DualEncoder.from_pretrained(tmp_path / "m", max_tokens=20)


def test_padding_on_the_left_is_refused_where_it_would_move_positions(tiny_folders, tmp_path):
    folder = bert(tmp_path / "bert", tiny_folders)
    saved = tmp_path / "saved"
    DualEncoder.from_pretrained(query=folder, document=folder).save_pretrained(saved)
    manifest = json.loads((saved / "care.json").read_text())
    manifest["query"]["spec"]["padding_side"] = "left"
    (saved / "care.json").write_text(json.dumps(manifest))
    with pytest.raises(CareError, match="left padding would shift the absolute positions"):
        DualEncoder.from_pretrained(saved)


def test_a_mirror_that_the_environment_names_is_asked_instead_of_the_hub(tmp_path):
    code = "from care_accel import DualEncoder; print(DualEncoder.from_pretrained('someone/mini').revision('query'))"
    with mirror({"someone/mini": EMBEDDED / "care-mini"}) as served:
        environment = {**os.environ, "HF_ENDPOINT": served.address, "HF_HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
    assert done.stdout.strip() == DualEncoder.from_pretrained("care-mini").revision("query")
    assert any(path.endswith("/query_encoder/model.int8.safetensors") for path in served.asked)
