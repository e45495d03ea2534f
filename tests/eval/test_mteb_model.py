import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset
from mteb.models import EncoderProtocol, SearchProtocol
from mteb.types import PromptType

from care_accel.errors import CareError
from care_accel.eval.cache import EmbeddingCache
from care_accel.eval.loading import load
from care_accel.eval.mteb_model import MtebModel, document_texts
from care_accel.eval.tasks import folder_tasks


@pytest.fixture
def tasks(data_dir):
    return folder_tasks(data_dir)[0]


def scores_of(model, tasks):
    found = mteb.evaluate(model, tasks, cache=None, co2_tracker=False, show_progress_bar=False)
    return {r.task_name: r.scores["test"][0] for r in found.task_results}


def test_a_dual_encoder_satisfies_both_of_mteb_s_protocols(tiny_model):
    model = tiny_model.as_mteb()
    assert isinstance(model, EncoderProtocol)
    assert isinstance(model, SearchProtocol)
    assert model.mteb_model_meta.similarity_fn_name == "dot"


def test_roles_come_from_the_prompt_type_and_no_role_means_query(tiny_model, tasks):
    texts = ["头痛怎么办", "多休息"]
    metadata = tasks[0].metadata
    model = tiny_model.as_mteb()

    def encoded(prompt_type):
        return model.encode([{"text": texts}], task_metadata=metadata, prompt_type=prompt_type)

    query, document = tiny_model.encode_query(texts), tiny_model.encode_document(texts)
    np.testing.assert_allclose(encoded(PromptType.query), query, atol=1e-6)
    np.testing.assert_allclose(encoded(PromptType.document), document, atol=1e-6)
    np.testing.assert_allclose(encoded(None), query, atol=1e-6)
    assert np.abs(query - document).max() > 1e-2


def test_the_prompt_is_that_of_the_task(tiny_model, tasks):
    model = tiny_model.as_mteb()
    for task, name in zip(tasks, ("retrieval", "reranking", "sts"), strict=True):
        vector = model.encode(
            [{"text": ["头痛"]}], task_metadata=task.metadata, prompt_type=PromptType.query
        )[0]
        np.testing.assert_allclose(vector, tiny_model.encode_query("头痛", task=name), atol=1e-6)


def test_the_score_is_the_inner_product_and_no_cosine(tiny_model):
    model = tiny_model.as_mteb()
    one, two = np.array([[3.0, 0.0], [1.0, 1.0]], np.float32), np.array([[2.0, 5.0], [0.0, 4.0]], np.float32)
    assert model.similarity(one, two).tolist() == [[6.0, 0.0], [7.0, 4.0]]
    assert model.similarity_pairwise(one, two).tolist() == [6.0, 4.0]
    assert model.similarity(torch.tensor(one), two).dtype == torch.float32


def test_retrieval_ranks_every_document_by_inner_product(tiny_model, tasks):
    task = tasks[0]
    load(task)
    data = task.dataset["default"]["test"]
    model = tiny_model.as_mteb()
    common = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "encode_kwargs": {}}
    model.index(data["corpus"], **common)
    results = model.search(data["queries"], top_k=1000, **common)
    q, d = (
        tiny_model.encode_query(list(data["queries"]["text"])),
        tiny_model.encode_document(data["corpus"]["text"]),
    )
    expected = q.astype(np.float64) @ d.astype(np.float64).T
    for row, query in enumerate(data["queries"]["id"]):
        assert list(results[query]) == [
            data["corpus"]["id"][i] for i in np.argsort(-expected[row], kind="stable")
        ]
        np.testing.assert_allclose(list(results[query].values()), -np.sort(-expected[row]), atol=1e-6)


def test_reranking_ranks_a_query_s_candidates_only(tiny_model, tasks):
    task = tasks[1]
    load(task)
    data = task.dataset["default"]["test"]
    model = tiny_model.as_mteb()
    common = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "encode_kwargs": {}}
    model.index(data["corpus"], **common)
    results = model.search(data["queries"], top_k=1000, top_ranked=data["top_ranked"], **common)
    texts = dict(zip(data["corpus"]["id"], data["corpus"]["text"], strict=True))
    for query, text in zip(data["queries"]["id"], data["queries"]["text"], strict=True):
        assert set(results[query]) == set(data["top_ranked"][query])
        vector = tiny_model.encode_query(text, task="reranking")
        for key, score in results[query].items():
            assert score == pytest.approx(
                float(vector @ tiny_model.encode_document(texts[key], task="reranking")), abs=1e-5
            )


def test_sts_compares_the_query_of_one_sentence_with_the_document_of_the_other(tiny_model, tasks):
    from scipy.stats import spearmanr

    scores = scores_of(tiny_model.as_mteb(), tasks[2])["sts/tiny"]
    data = tasks[2].source.read("test")
    one, two = (
        tiny_model.encode_query(data.first, task="sts"),
        tiny_model.encode_document(data.second, task="sts"),
    )
    assert scores["main_score"] == pytest.approx(spearmanr(data.scores, (one * two).sum(axis=1))[0])


def test_search_before_index_is_refused(tiny_model, tasks):
    with pytest.raises(CareError, match="search before index"):
        tiny_model.as_mteb().search(
            Dataset.from_dict({"id": ["q"], "text": ["头痛"]}), task_metadata=tasks[0].metadata, top_k=5
        )


def test_a_text_is_encoded_once_and_then_taken_from_the_cache(tiny_model, tasks, tmp_path):
    first = MtebModel(tiny_model, cache=EmbeddingCache(tmp_path / "cache"))
    once = scores_of(first, tasks)
    assert first.encoded > 0
    second = MtebModel(tiny_model, cache=EmbeddingCache(tmp_path / "cache"))
    assert scores_of(second, folder_tasks(tasks[0].source.folder.parents[1])[0]) == once
    assert second.encoded == 0
    assert second.cached > 0


def test_a_cache_changes_no_score(tiny_model, tasks, tmp_path):
    plain = scores_of(tiny_model.as_mteb(), tasks)
    assert scores_of(MtebModel(tiny_model, cache=EmbeddingCache(tmp_path / "cache")), tasks) == plain


def test_what_was_encoded_before_a_run_was_killed_is_not_encoded_again(
    tiny_model, tasks, tmp_path, monkeypatch
):
    monkeypatch.setattr("care_accel.eval.mteb_model._CHUNK", 2)
    cache = EmbeddingCache(tmp_path / "cache")
    killed = MtebModel(tiny_model, cache=cache)
    encoder, calls = tiny_model.encoder("document"), []
    encode = encoder.encode

    def killed_at_the_second_chunk(texts, **options):
        calls.append(texts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(texts, **options)

    monkeypatch.setattr(encoder, "encode", killed_at_the_second_chunk)
    with pytest.raises(KeyboardInterrupt):
        scores_of(killed, tasks[0])
    monkeypatch.setattr(encoder, "encode", encode)
    again = MtebModel(tiny_model, cache=EmbeddingCache(tmp_path / "cache"))
    scores_of(again, tasks[0])
    assert again.cached == 2
    assert again.encoded == 3 + 3  # the documents that were left, and the queries


def test_title_and_text_are_joined_as_mteb_joins_them():
    corpus = Dataset.from_dict({"id": ["a", "b"], "title": ["高血压", ""], "text": ["饮食", "运动"]})
    assert document_texts(corpus) == ["高血压 饮食", "运动"]
    assert document_texts(corpus.remove_columns("title")) == ["饮食", "运动"]
