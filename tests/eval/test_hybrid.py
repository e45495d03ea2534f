import mteb
import pytest

from care_accel import Retriever
from care_accel.eval.baselines import BM25Model
from care_accel.eval.hybrid import HybridModel
from care_accel.eval.mteb_model import MtebModel
from care_accel.eval.tasks import folder_tasks

DOCUMENTS = {
    "d0": "高血压患者应低盐饮食，遵医嘱服用降压药。",
    "d1": "糖尿病患者要控制主食，监测血糖。",
    "d2": "感冒多饮水休息，发热时可用退热药。",
    "d4": "骨折后应固定，并尽快就医拍片。",
}
QUERIES = {"q0": "高血压怎么治", "q1": "血糖高吃什么", "q2": "xyz"}


@pytest.fixture
def hybrid(tiny_model):
    return HybridModel(MtebModel(tiny_model), BM25Model())


def search(model, queries, corpus, **options):
    metadata = mteb.get_task("T2Retrieval").metadata
    model.index(table(corpus), task_metadata=metadata)
    return model.search(
        {"id": list(queries), "text": list(queries.values())}, task_metadata=metadata, **options
    )


def table(corpus):
    from datasets import Dataset

    return Dataset.from_dict({"id": list(corpus), "text": list(corpus.values())})


def test_the_ranking_is_the_retriever_s(hybrid, tiny_model):
    retriever = Retriever.from_documents(tiny_model, list(DOCUMENTS.values()), lexical=True)
    found = search(hybrid, QUERIES, DOCUMENTS, top_k=1000)
    for key, text in QUERIES.items():
        expected = {list(DOCUMENTS)[hit.id]: hit.score for hit in retriever.search(text, k=100)}
        assert found[key] == pytest.approx(expected)
        assert list(found[key]) == list(expected)


def test_all_candidates_of_a_reranking_are_ranked_and_words_that_are_not_shared_count_nothing(hybrid):
    candidates = {"q1": ["d4", "d1", "d2"]}
    found = search(hybrid, {"q1": QUERIES["q1"]}, DOCUMENTS, top_k=1000, top_ranked=candidates)["q1"]
    assert set(found) == set(candidates["q1"])
    assert max(found.values()) <= 3 / 6 + 1e-6
    assert min(found.values()) == pytest.approx(1 / 8)


def test_it_runs_rankings_only_and_is_another_model_than_its_parts(hybrid, tiny_model, data_dir):
    tasks, _ = folder_tasks(data_dir)
    assert [hybrid.supports(task) for task in tasks] == [True, True, False]
    assert hybrid.key not in (MtebModel(tiny_model).key, BM25Model().key)
    assert hybrid.name == f"{tiny_model.name}-hybrid"
    assert hybrid.manifest()["reciprocal rank fusion"] == {
        "constant": 5,
        "lexical weight": 0.5,
        "depth": 100,
    }
