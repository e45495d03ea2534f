import json
import shutil
import stat
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from care_accel import ApproximateIndex, CareError, DualEncoder, ExactIndex, Hit, Retriever
from care_accel.index import BM25Index
from care_accel.index.fusion import reciprocal_rank_fusion

DOCUMENTS = ["高血压患者应低盐饮食", "糖尿病要控制主食", "感冒多饮水休息", "骨折后应固定"]


@pytest.fixture
def retriever(tiny_model):
    return Retriever.from_documents(tiny_model, DOCUMENTS)


def test_a_str_gives_hits_and_a_list_gives_lists_of_hits(retriever):
    hits = retriever.search("高血压怎么治", k=2)
    assert [type(hit) for hit in hits] == [Hit, Hit]
    together = retriever.search(["高血压怎么治", "骨折"], k=2)[0]
    assert [hit.id for hit in together] == [hit.id for hit in hits]
    # In PyTorch a batch changes a query's vector by up to 1e-5; the default runtime, below, is bit-identical.
    assert [hit.score for hit in together] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert retriever.search([], k=2) == []


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_query_finds_the_same_to_the_last_bit_alone_and_beside_others(retriever, tiny_folders, dtype):
    model = DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder",
        document=tiny_folders / "document_encoder",
        preset="care",
        width=24,
        device="cpu",
        dtype=dtype,
    )
    native = Retriever(model, retriever.index, DOCUMENTS)
    hits = native.search("高血压怎么治", k=2)
    assert [type(hit) for hit in hits] == [Hit, Hit]
    assert native.search(["高血压怎么治", "骨折"], k=2)[0] == hits


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


@pytest.fixture
def hybrid(tiny_model):
    return Retriever.from_documents(tiny_model, DOCUMENTS, lexical=True)


def test_with_a_lexical_index_both_rankings_are_fused_by_reciprocal_rank(hybrid, retriever):
    query = "骨折后应固定吗"
    vectors = [hit.id for hit in retriever.search(query, k=4)]
    lexical = [i for i in hybrid.lexical.search([query], k=4)[1][0] if i >= 0]
    assert 0 < len(lexical) < len(vectors)
    sums = {
        i: sum(weight / (6 + r.index(i)) for weight, r in ((1, vectors), (0.5, lexical)) if i in r)
        for i in vectors
    }
    hits = hybrid.search(query, k=4)
    assert [hit.id for hit in hits] == sorted(sums, key=lambda i: (-sums[i], i))
    assert [hit.score for hit in hits] == pytest.approx([sums[hit.id] for hit in hits])
    assert [hit.id for hit in hybrid.search(query, k=2)] == [hit.id for hit in hits[:2]]


def test_a_query_that_shares_no_term_is_answered_by_vectors_alone(hybrid, retriever):
    assert [h.id for h in hybrid.search("xyz")] == [h.id for h in retriever.search("xyz")]


@pytest.mark.parametrize("subset", [[3, 0], [True, False, False, True]])
def test_a_subset_is_searched_in_both_rankings(hybrid, retriever, subset):
    query = "感冒和骨折后应固定吗"
    for one in (hybrid, retriever):
        assert [h.id for h in one.search(query)] != [3, 0]
        assert sorted(h.id for h in one.search(query, subset=subset)) == [0, 3]
        assert one.search(query, subset=[]) == []
    with pytest.raises(CareError, match="subset contains id 4"):
        hybrid.search(query, subset=[4])


def test_removed_documents_are_in_neither_ranking(hybrid):
    query = "感冒和骨折后应固定吗"
    hybrid.index.remove([3])
    assert sorted(h.id for h in hybrid.search(query)) == [0, 1, 2]
    assert [h.id for h in hybrid.search(query, subset=[3, 1])] == [1]
    vectors = hybrid.model.encode_query([query])
    assert hybrid.search_vectors(vectors, 3, [query], subset=[3, 2])[1].tolist() == [[2, -1, -1]]


def test_a_retriever_that_is_saved_again_writes_no_vectors_again(tiny_model, tmp_path):
    retriever = Retriever.from_documents(tiny_model, DOCUMENTS)
    file = tmp_path / "saved" / "vectors" / "parts" / "0" / "vectors.npy"
    retriever.save(tmp_path / "saved")
    before = file.stat().st_ino
    retriever.index.remove([1])
    retriever.save(tmp_path / "saved")
    assert file.stat().st_ino == before
    loaded = Retriever.load(tmp_path / "saved", tiny_model)
    assert sorted(h.id for h in loaded.search("感冒")) == [0, 2, 3]


@pytest.mark.parametrize("lexical", [False, True])
def test_an_approximate_index_takes_the_place_of_an_exact_one(tiny_model, tmp_path, lexical):
    exact = Retriever.from_documents(tiny_model, DOCUMENTS, lexical=lexical)
    index = ApproximateIndex.build(exact.index)
    retriever = Retriever(tiny_model, index, DOCUMENTS, lexical=exact.lexical)
    assert retriever.search("高血压怎么治", k=3) == exact.search("高血压怎么治", k=3)
    retriever.save(tmp_path / "retriever")
    again = Retriever.load(tmp_path / "retriever", tiny_model)
    assert isinstance(again.index, ApproximateIndex)
    again.index.remove([0])
    exact.index.remove([0])
    assert again.search("高血压怎么治", k=3) == exact.search("高血压怎么治", k=3)


def test_a_lexical_index_of_another_number_of_documents_is_refused(tiny_model, retriever):
    with pytest.raises(CareError, match="the lexical index has 2 documents, the index 4 vectors"):
        Retriever(tiny_model, retriever.index, lexical=BM25Index(DOCUMENTS[:2]))


@pytest.mark.parametrize("k", [0, -1, 1.5, True, None])
def test_k_must_be_a_number_above_0(hybrid, retriever, k):
    for one in (hybrid, retriever):
        with pytest.raises(CareError, match="k is"):
            one.search("感冒", k=k)


@pytest.mark.parametrize("lexical", [False, True])
@pytest.mark.parametrize("documents", [None, DOCUMENTS, [{"id": 1, "text": "\ud800 感冒"}, None, [1.5], "x"]])
def test_a_saved_retriever_answers_the_same(tiny_model, tmp_path, lexical, documents):
    index = Retriever.from_documents(tiny_model, DOCUMENTS).index
    retriever = Retriever(tiny_model, index, documents, lexical=BM25Index(DOCUMENTS) if lexical else None)
    retriever.save(tmp_path / "saved")
    loaded = Retriever.load(tmp_path / "saved", tiny_model)
    assert loaded.search("感冒多饮水") == retriever.search("感冒多饮水")
    assert stat.S_IMODE((tmp_path / "saved").stat().st_mode) == 0o700
    loaded.save(tmp_path / "saved")
    assert loaded.search("感冒多饮水") == retriever.search("感冒多饮水")


DATA = Path(__file__).parent / "data"


@pytest.fixture
def its_model():
    """Return what is known of the model whose retriever is in tests/data."""
    revision = f"sha256:{1:064x}"
    return SimpleNamespace(name="random", width=20, revision=lambda role: revision)


def assert_finds_what_release_0_1_found(retriever):
    expected = json.loads((DATA / "hits-0.1.json").read_text(encoding="utf-8"))
    queries = np.array(expected["queries"], np.float32)
    scores, ids, _ = retriever.search_vectors(queries, expected["k"], expected["texts"])
    assert ids.tolist() == expected["retriever"]["ids"]
    assert scores.tolist() == expected["retriever"]["scores"]  # to the last bit
    scores, ids = retriever.lexical.search(expected["texts"], expected["k"])
    assert ids.tolist() == expected["lexical"]["ids"]
    assert np.where(np.isfinite(scores), scores, None).tolist() == expected["lexical"]["scores"]
    assert retriever.document(5) == {"id": "d5", "text": "糖尿病患者平时应该怎样饮食"}


@pytest.fixture
def weight_of_0_1(monkeypatch):
    """Weigh the lexical ranking as release 0.1 did."""
    monkeypatch.setattr(reciprocal_rank_fusion, "__defaults__", ((1.0, 2.0),))


@pytest.mark.usefixtures("weight_of_0_1")
def test_a_retriever_of_release_0_1_finds_what_it_found_then(its_model):
    assert_finds_what_release_0_1_found(Retriever.load(DATA / "retriever-0.1", its_model))


@pytest.mark.usefixtures("weight_of_0_1")
def test_a_retriever_of_release_0_1_is_replaced_by_one_of_today(its_model, tmp_path):
    shutil.copytree(DATA / "retriever-0.1", tmp_path / "saved")
    Retriever.load(tmp_path / "saved", its_model).save(tmp_path / "saved")
    assert_finds_what_release_0_1_found(Retriever.load(tmp_path / "saved", its_model))
    names = sorted(file.name for file in (tmp_path / "saved").iterdir())
    assert names == ["documents.jsonl", "lexical", "retriever.json", "vectors"]


def test_what_cannot_be_saved_or_loaded_is_said(tiny_model, retriever, tmp_path):
    with pytest.raises(CareError, match="document 1 cannot be saved"):
        Retriever(tiny_model, retriever.index, ["a", object(), "c", "d"]).save(tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CareError, match="a saved retriever has one"):
        Retriever.load(tmp_path, tiny_model)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("retriever.json", '{"format": 1}', "'parts' must list 'words' and 'documents.jsonl'"),
        ("retriever.json", '{"format": 2}', "'parts' must list 'lexical' and 'documents.jsonl'"),
        ("retriever.json", '{"format": 3}', "format 3 is unknown; this release reads 1 and 2"),
        ("documents.jsonl", '"a"\n{"b"\n', "line 2: not JSON"),
        ("documents.jsonl", '"a"\n', "1 documents for an index of 4 vectors"),
    ],
)
def test_a_saved_retriever_that_is_broken_is_one_line(retriever, tiny_model, tmp_path, file, content, words):
    retriever.save(tmp_path / "saved")
    (tmp_path / "saved" / file).write_text(content)
    with pytest.raises(CareError, match=words):
        Retriever.load(tmp_path / "saved", tiny_model)


def test_a_search_tells_where_its_time_went_and_finds_the_same(hybrid, retriever):
    for one in (hybrid, retriever):
        started = time.perf_counter()
        hits, timings = one.search("高血压怎么治", k=2, return_timings=True)
        took = 1e6 * (time.perf_counter() - started)
        assert hits == one.search("高血压怎么治", k=2)
        assert min(timings) > 0
        assert timings.tokenise + timings.encode + timings.scan < took
        many, _ = one.search(["高血压怎么治", "骨折"], k=2, return_timings=True)
        assert many == one.search(["高血压怎么治", "骨折"], k=2)


QUESTIONS = ["高血压怎么治", "血糖高吃什么", "感冒发热怎么办", "骨折", "胃炎" * 300]


@pytest.fixture(params=["grpc", "http"])
def server_address(care_server, request):
    """Return the address of a real server, for each protocol."""
    return care_server.grpc if request.param == "grpc" else f"http://{care_server.http}"


def test_a_server_finds_what_the_library_finds(server_address, demo):
    with Retriever.from_server(server_address) as served:
        for k in (1, 10, 1000):
            for there, here in zip(served.search(QUESTIONS, k=k), demo.search(QUESTIONS, k=k), strict=True):
                assert [(h.id, h.document) for h in there] == [(h.id, h.document) for h in here]
                assert [h.score for h in there] == pytest.approx([h.score for h in here], abs=1e-5)
        assert served.search(QUESTIONS[0]) == served.search(QUESTIONS[:1])[0]
        assert served.search([]) == []


def test_a_served_search_of_more_queries_than_a_request_takes_keeps_their_order(server_address, demo):
    queries = [f"第{i}种病怎么治" for i in range(150)]
    with Retriever.from_server(server_address) as served:
        found = served.search(queries, k=3)
    assert [[h.id for h in hits] for hits in found] == [
        [h.id for h in hits] for hits in demo.search(queries, k=3)
    ]


@pytest.mark.parametrize("subset", [[], [7], [400, 3, 3, 12, 80], np.arange(500) % 7 == 2], ids=str)
def test_a_server_searches_a_subset_as_the_library_does(server_address, demo, subset):
    if isinstance(subset, np.ndarray):
        subset = np.resize(subset, len(demo.index))
    with Retriever.from_server(server_address) as served:
        found = served.search(QUESTIONS, k=6, subset=subset)
    assert [[h.id for h in row] for row in found] == [
        [h.id for h in row] for row in demo.search(QUESTIONS, k=6, subset=subset)
    ]


@pytest.mark.parametrize(
    ("subset", "words"),
    [
        ([0, 10**9], "SUBSET 0 has 1,000,000,000, which is no position in an index of"),
        ([-1], "subset has -1, which is no position"),
        ([0.5], r"subset is an array of float64 \[1\]"),
        ([[1]], r"subset is an array of int64 \[1, 1\]"),
    ],
)
def test_a_subset_that_a_server_does_not_have_is_one_line(server_address, subset, words):
    with Retriever.from_server(server_address) as served, pytest.raises(CareError, match=words):
        served.search("头痛", subset=subset)


def test_a_served_search_tells_where_its_time_went(server_address):
    with Retriever.from_server(server_address) as served:
        begun = time.perf_counter()
        hits, timings = served.search("头痛已经三天了还没有好", k=2, return_timings=True)
        took = 1e6 * (time.perf_counter() - begun)
    assert len(hits) == 2
    assert min(timings) > 0
    assert sum(timings) < took


def test_queries_that_a_server_encodes_search_an_index_that_is_here(server_address, demo):
    with DualEncoder.from_server(server_address) as model:
        retriever = Retriever(model, demo.index, demo.documents)
        hits, timings = retriever.search(QUESTIONS, k=5, return_timings=True)
    assert [[h.id for h in row] for row in hits] == [
        [h.id for h in row] for row in demo.search(QUESTIONS, k=5)
    ]
    assert min(timings) > 0


@pytest.mark.parametrize(
    ("query", "k", "words"),
    [("", 10, "TEXT 0 is empty"), ("头痛", 10**12, "must be 1 to 1,000"), ("头痛", 0, "k is 0")],
)
def test_what_a_server_refuses_is_one_line(server_address, query, k, words):
    with Retriever.from_server(server_address) as served:
        with pytest.raises(CareError, match=words):
            served.search(query, k=k)
        assert len(served.search("头痛")) == 10
