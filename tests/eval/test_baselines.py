import mteb
import numpy as np
import pytest

from care_accel import DualEncoder, EncoderSpec
from care_accel.encoding.loading.checkpoint import Checkpoint
from care_accel.encoding.loading.dense import store_random, stored_files
from care_accel.encoding.loading.sources import Source, Sources
from care_accel.encoding.spec import Dense
from care_accel.eval.baselines import BM25Model, e5_small, untrained
from care_accel.eval.tasks import folder_tasks


def test_bm25_finds_what_shares_words(data_dir):
    tasks, _ = folder_tasks(data_dir, patterns=["re*"])
    found = mteb.evaluate(BM25Model(), tasks, cache=None, co2_tracker=False, show_progress_bar=False)
    scores = {r.task_name: r.scores["test"][0]["main_score"] for r in found.task_results}
    assert scores["retrieval/tiny"] > 0.9
    assert scores["reranking/tiny"] == 1.0


def test_bm25_runs_no_pairs(data_dir):
    tasks, _ = folder_tasks(data_dir)
    assert [BM25Model().supports(task) for task in tasks] == [True, True, False]


def test_the_untrained_twin_has_the_same_shape_and_other_weights(tiny_model, tmp_path):
    twin = untrained(tiny_model, tmp_path / "one")
    assert twin.name == f"{tiny_model.name}-untrained"
    assert twin.spec("query") == tiny_model.spec("query")
    ours, theirs = (m.source("document").checkpoint.load_network("float32") for m in (tiny_model, twin))
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    assert twin.encode_query("头痛") != pytest.approx(tiny_model.encode_query("头痛"), abs=1e-3)


def test_the_untrained_twin_has_dense_layers_too(tiny_folders, tmp_path):
    layers = [Dense(64, "gelu"), Dense(12, bias=False)]
    store_random(layers, 32, tmp_path / "dense")
    checkpoint = Checkpoint(tiny_folders / "query_encoder", dense=stored_files(tmp_path / "dense"))
    source = Source(checkpoint, EncoderSpec("mean", "slice-then-normalize", 12, dense=layers))
    model = DualEncoder(Sources("dense", source, source), "pytorch")
    twin = untrained(model, tmp_path / "one")
    assert twin.spec("query") == model.spec("query")
    assert twin.encode_query("头痛") != pytest.approx(model.encode_query("头痛"), abs=1e-3)


def test_the_untrained_twin_is_the_same_on_every_run(tiny_model, tmp_path):
    one, two = (untrained(tiny_model, tmp_path / name) for name in ("one", "two"))
    assert one.revision("query") == two.revision("query")
    np.testing.assert_array_equal(one.encode_document("头痛"), two.encode_document("头痛"))


def test_the_twin_of_a_symmetric_model_is_symmetric(tiny_folders, tmp_path):
    folder = tiny_folders / "query_encoder"
    model = DualEncoder.from_pretrained(query=folder, document=folder)
    assert model.symmetric
    twin = untrained(model, tmp_path)
    assert twin.symmetric
    np.testing.assert_array_equal(twin.encode_query("头痛"), twin.encode_document("头痛"))


@pytest.mark.slow
def test_e5_small_is_the_published_network_with_its_prompts(tmp_path):
    model = e5_small(tmp_path)
    assert (model.name, model.width, model.symmetric) == ("multilingual-e5-small", 384, True)
    question, answer, other = "高血压怎么治", "高血压患者要规律服用降压药。", "骨折后应固定，尽快拍片。"
    scores = model.encode_query([question]) @ model.encode_document([answer, other]).T
    assert scores[0, 0] > scores[0, 1]
    assert model.spec("query").format(question, "retrieval") == f"query: {question}"
