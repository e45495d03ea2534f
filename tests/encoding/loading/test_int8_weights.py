import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from care_accel import CareError, DualEncoder
from care_accel.encoding.loading.int8_weights import FILE, load_int8, save_int8


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(-1e3, 1e3, width=16)
    )
)
def test_a_weight_is_off_by_half_a_step_at_most_and_stays_when_stored_again(matrix):
    with tempfile.TemporaryDirectory() as place:
        save_int8({"w": matrix, "b": matrix[0]}, Path(place))
        once = load_int8(Path(place))
        save_int8(once, Path(place))
        twice = load_int8(Path(place))
    step = np.abs(matrix).max(axis=1, keepdims=True) / 127
    assert (np.abs(once["w"] - matrix) <= step * 0.501).all()
    assert np.array_equal(once["b"], matrix[0])
    assert np.allclose(twice["w"], once["w"], rtol=1e-6, atol=0)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(CareError, match="w: a weight is not finite"):
        save_int8({"w": np.array([[np.nan]], np.float32)}, tmp_path)


def test_a_corrupt_file_is_one_line(tmp_path):
    (tmp_path / FILE).write_bytes(b"no weights")
    with pytest.raises(CareError, match="weights cannot be loaded"):
        load_int8(tmp_path)


def test_an_encoder_stored_in_int8_loads_trains_and_is_copied_as_it_is(tiny_folders, tmp_path):
    plain = DualEncoder.from_pretrained(
        query=tiny_folders / "query_encoder", document=tiny_folders / "document_encoder"
    )
    for role in ("query", "document"):
        place = tmp_path / role
        shutil.copytree(tiny_folders / f"{role}_encoder", place)
        network = plain.source(role).checkpoint.load_network("float32")
        save_int8({name: values.numpy() for name, values in network.state_dict().items()}, place)
        (place / "model.safetensors").unlink()
    model = DualEncoder.from_pretrained(query=tmp_path / "query", document=tmp_path / "document")
    texts = ["高血压怎么治", "糖尿病"]
    for role in ("query", "document"):
        ours, theirs = (getattr(m, f"encode_{role}")(texts) for m in (model, plain))
        assert (ours * theirs).sum(axis=1) == pytest.approx(1, abs=2e-3)
    model.save_pretrained(tmp_path / "copy")
    again = DualEncoder.from_pretrained(tmp_path / "copy")
    assert again.revision("query") == model.revision("query")
    assert np.array_equal(again.encode_query(texts), model.encode_query(texts))
