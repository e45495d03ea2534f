import grpc
import numpy as np
import pytest

from care_accel import CareError, DualEncoder
from care_accel.encoding.served import batch_times

TEXTS = [f"{i}岁患者" + "反复咳嗽" * (i % 7) + "怎么办" for i in range(150)]
ROLES = ("query", "document")


@pytest.fixture
def served(care_server):
    with DualEncoder.from_server(care_server.grpc) as model:
        yield model


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("task", ["retrieval", "reranking", "sts"])
def test_vectors_of_a_real_server_are_the_library_s(served, embedded_model, role, task):
    there, here = (model.encoder(role).encode(TEXTS, task=task) for model in (served, embedded_model))
    assert there.dtype == np.float32
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_over_http_the_vectors_are_the_same(served, care_server):
    with DualEncoder.from_server(f"http://{care_server.http}") as model:
        np.testing.assert_array_equal(model.encode_query(TEXTS[:20]), served.encode_query(TEXTS[:20]))
        assert model.explain().count(f"server on http://{care_server.http}") == 2


def test_a_str_gives_one_vector_and_odd_texts_are_as_in_the_library(served, embedded_model):
    for text in ("头痛", "头\ud800痛", "长" * 3000, " ", "🙂"):
        there = served.encode_query(text)
        assert there.shape == (served.width,)
        np.testing.assert_allclose(there, embedded_model.encode_query(text), atol=1e-5)
    assert served.encoder("query").counts.replaced_surrogates == 1
    assert served.encode_document("").shape == (served.width,)
    assert served.encode_query([]).shape == (0, served.width)


def test_it_is_the_model_that_is_served(served, embedded_model, care_server, capsys):
    assert (served.name, served.width, served.symmetric) == (
        embedded_model.name, embedded_model.width, embedded_model.symmetric,
    )  # fmt: skip
    for role in ROLES:
        assert served.revision(role) == embedded_model.revision(role)
        assert served.spec(role).identity == embedded_model.spec(role).identity
        assert served.choice(role).runtime == "server"
        assert care_server.grpc in served.explain()
    assert "revision sha256:" in capsys.readouterr().out


def test_what_was_encoded_is_counted(served, embedded_model):
    counts = served.encoder("document").counts
    served.encode_document(TEXTS[:9])
    vectors, tokenise, encode = served.encoder("document").encode_timed(TEXTS[:9])
    assert counts.texts == 18
    assert counts.tokens == 2 * sum(map(len, embedded_model.encoder("document").tokenize(TEXTS[:9])))
    assert min(tokenise, encode) > 0
    assert vectors.shape == (9, served.width)


def test_a_text_that_the_server_refuses_is_named_and_the_next_call_works(served):
    with pytest.raises(CareError, match="query_encoder: TEXT 120 is empty"):
        served.encode_query([*TEXTS[:120], "", *TEXTS[120:]])
    with pytest.raises(CareError, match="100,001 bytes"):
        served.encode_document("a" * 100_001)
    with pytest.raises(CareError, match="unknown prompt task 'x'"):
        served.encode_query("头痛", task="x")
    assert served.encode_query("头痛").shape == (served.width,)


def test_a_server_with_one_encoder_serves_that_one(address, service, capsys):
    service.missing = {"document_encoder"}
    model = DualEncoder.from_server(address)
    assert model.encode_query("ab").tolist() == [2, 97, 195]
    with pytest.raises(CareError, match="serves no model 'document_encoder'"):
        model.encode_document("ab")
    model.explain()
    assert "document: cannot run: " in capsys.readouterr().out
    service.missing = {"document_encoder", "query_encoder"}
    with pytest.raises(CareError, match="serves no model 'query_encoder'"):
        DualEncoder.from_server(address)


@pytest.mark.parametrize("change", [{"name": "other"}, {"width": 4}])
def test_encoders_of_two_models_are_refused(address, service, change):
    service.changes = {"document_encoder": change}
    with pytest.raises(
        CareError, match=r"query encoder belongs to care-test \(width 3\), .* serve both encoders of one"
    ):
        DualEncoder.from_server(address)


def test_a_server_that_comes_back_with_another_encoder_gives_no_vector_beside_the_first_one_s(
    address, service
):
    model = DualEncoder.from_server(address)
    assert model.encode_query("ab").tolist() == [2, 97, 195]
    service.revision = "sha256:two"
    service.errors = [(grpc.StatusCode.UNAVAILABLE, "Socket closed")]
    with pytest.raises(CareError, match=r"sha256:one, now sha256:two"):
        model.encode_query("ab")
    for encode in (model.encode_query, model.encoder("query").encode_timed):
        with pytest.raises(CareError, match=r"no longer serves query encoder sha256:one, but sha256:two"):
            encode(["ab"])
    assert DualEncoder.from_server(address).encode_query("ab").tolist() == [2, 97, 195]


def test_encoders_that_took_each_other_s_place_are_refused(address, service):
    service.changes = {"query_encoder": {"role": "document"}}
    with pytest.raises(CareError, match="query_encoder serves the document encoder"):
        DualEncoder.from_server(address)


def test_a_progress_bar_is_drawn_when_it_is_asked_for(address, capsys):
    model = DualEncoder.from_server(address)
    assert model.encode_query(["ab"] * 9, show_progress=True).shape == (9, 3)
    model.encode_query(["ab"] * 9, batch_size=2)
    for size in (0, 1.5):
        with pytest.raises(CareError, match="batch_size"):
            model.encode_query(["ab"], batch_size=size)


def test_times_of_texts_that_shared_a_batch_are_counted_once():
    times = np.array([[1, 10], [1, 10], [2, 20], [1, 10]], np.float32)
    assert batch_times(times) == [3.0, 30.0]
    assert batch_times(np.empty((0, 3), np.float32)) == [0.0, 0.0, 0.0]


def test_from_pretrained_says_how_a_server_is_named():
    with pytest.raises(CareError, match="use DualEncoder"):
        DualEncoder.from_pretrained(runtime="server")
