import numpy as np
import pytest

from care_accel import CareError, DualEncoder, ExactIndex, Hit, Retriever

DOCUMENTS = ["高血压患者应低盐饮食", "糖尿病要控制主食", "感冒多饮水休息", "骨折后应固定"]


@pytest.fixture
def retriever(tiny_model):
    return Retriever.from_documents(tiny_model, DOCUMENTS)


def test_a_str_gives_hits_and_a_list_gives_lists_of_hits(retriever):
    hits = retriever.search("高血压怎么治", k=2)
    assert [type(hit) for hit in hits] == [Hit, Hit]
    assert retriever.search(["高血压怎么治", "骨折"], k=2)[0] == hits
    assert retriever.search([], k=2) == []


def test_hits_are_the_largest_inner_products_with_their_documents(retriever, tiny_model):
    query = tiny_model.encode_query("血糖高吃什么")
    expected = tiny_model.encode_document(DOCUMENTS).astype(np.float64) @ query.astype(np.float64)
    hits = retriever.search("血糖高吃什么", k=4)
    assert [hit.id for hit in hits] == list(np.argsort(-expected, kind="stable"))
    assert [hit.document for hit in hits] == [DOCUMENTS[hit.id] for hit in hits]
    assert [hit.score for hit in hits] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)


def test_a_small_index_gives_as_many_hits_as_it_has(retriever):
    assert len(retriever.search("感冒", k=100)) == 4


def test_without_documents_a_hit_has_only_id_and_score(retriever, tiny_model):
    assert Retriever(tiny_model, retriever.index).search("感冒", k=1)[0].document is None


def test_the_document_encoder_is_not_loaded_for_a_search(tiny_folders, retriever):
    folders = {"query": tiny_folders / "query_encoder", "document": tiny_folders / "document_encoder"}
    model = DualEncoder.from_pretrained(**folders, preset="care", width=24)
    Retriever(model, retriever.index).search("感冒")
    assert set(model._encoders) == {"query"}


def test_an_index_of_another_document_encoder_is_refused_and_both_are_named(tiny_folders, retriever):
    folders = {"query": tiny_folders / "query_encoder", "document": tiny_folders / "document_encoder"}
    other = DualEncoder.from_pretrained(**folders, preset="care", width=24, max_tokens=7)
    with pytest.raises(CareError) as error:
        Retriever(other, retriever.index)
    assert retriever.index.encoder_revision in str(error.value)
    assert other.revision("document") in str(error.value)


def test_an_index_that_does_not_know_its_encoder_is_taken(tiny_model, retriever):
    index = ExactIndex(tiny_model.width)
    index.add(retriever.index.vectors)
    assert Retriever(tiny_model, index).search("感冒") == Retriever(tiny_model, retriever.index).search(
        "感冒"
    )


def test_another_width_or_number_of_documents_is_refused(tiny_model, retriever):
    with pytest.raises(CareError, match="width 5"):
        Retriever(tiny_model, ExactIndex(5))
    with pytest.raises(CareError, match="3 documents for an index of 4 vectors"):
        Retriever(tiny_model, retriever.index, documents=DOCUMENTS[:3])
