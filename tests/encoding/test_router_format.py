import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from care_accel import CareError, DualEncoder

TEXTS = ["头痛怎么办", "高血压患者应低盐饮食，遵医嘱服用降压药", "咳嗽"]


def modules(folder, mode, normalised=True):
    transformer = Transformer(str(folder))
    transformer.tokenizer.padding_side = "right"
    size = transformer.get_embedding_dimension()
    return [transformer, Pooling(size, pooling_mode=mode), *([Normalize()] if normalised else [])]


@pytest.mark.parametrize("width", [None, 12])
def test_a_router_folder_gives_the_library_s_own_vectors(make_encoder, tmp_path, width):
    query = make_encoder(tmp_path / "q", "gte", seed=3)
    document = make_encoder(tmp_path / "d", "qwen3", seed=4, hidden_size=32)
    router = Router.for_query_document(modules(query, "cls"), modules(document, "lasttoken"))
    library = SentenceTransformer(modules=[router], similarity_fn_name="dot", truncate_dim=width)
    library.save_pretrained(str(tmp_path / "pair"))
    model = DualEncoder.from_pretrained(tmp_path / "pair")
    assert model.width == (width or 32)
    if width:  # at full width both orders are one
        assert {model.spec(role).order for role in ("query", "document")} == {"normalize-then-slice"}
    np.testing.assert_allclose(model.encode_query(TEXTS), library.encode_query(TEXTS), atol=1e-5)
    np.testing.assert_allclose(model.encode_document(TEXTS), library.encode_document(TEXTS), atol=1e-5)


def test_a_plain_folder_is_a_symmetric_model(make_encoder, tmp_path):
    folder = make_encoder(tmp_path / "one", "gte", seed=5)
    library = SentenceTransformer(modules=modules(folder, "mean"))
    library.save_pretrained(str(tmp_path / "plain"))
    model = DualEncoder.from_pretrained(tmp_path / "plain")
    assert model.symmetric
    np.testing.assert_allclose(model.encode_document(TEXTS), library.encode(TEXTS), atol=1e-5)


def test_a_folder_with_a_broken_list_of_modules_is_one_line(tmp_path):
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(CareError) as error:
        DualEncoder.from_pretrained(tmp_path)
    assert "\n" not in str(error.value)
