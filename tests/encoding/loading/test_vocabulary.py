import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from care_accel import CareError
from care_accel.encoding.loading.vocabulary import FILE, Vocabulary

SIZE = 50
TOKENS = st.lists(st.integers(0, SIZE - 1), max_size=20)


@given(kept=TOKENS, unknown=st.integers(0, SIZE - 1), texts=st.lists(TOKENS, max_size=5))
def test_kept_tokens_get_their_own_row_and_all_others_the_unknown_one_and_are_counted(kept, unknown, texts):
    vocabulary = Vocabulary.from_token_ids(kept, SIZE, unknown)
    rows, counts = vocabulary.translate(texts)
    whole = {*kept, unknown}
    assert vocabulary.kept == len(whole)
    for ids, row, count in zip(texts, rows, counts, strict=True):
        assert vocabulary.ids[row].tolist() == [i if i in whole else unknown for i in ids]
        assert count == sum(i not in whole for i in ids)


def test_what_is_saved_comes_back(tmp_path):
    assert Vocabulary.load(tmp_path) is None
    Vocabulary.from_token_ids([3, 9, 4], 12, 0).save(tmp_path)
    again = Vocabulary.load(tmp_path)
    assert again.ids.tolist() == [0, 3, 4, 9]
    assert again.unknown == 0


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"rows": np.array([0, 0, 1]), "unknown": np.array([0])}, "rows are not 0 to 2"),
        ({"rows": np.array([0, -1, 2]), "unknown": np.array([0])}, "rows are not 0 to 1"),
        (
            {"rows": np.array([0, -1, 1]), "unknown": np.array([2])},
            "row 2 of the unknown token is out of range",
        ),
        ({"rows": np.array([0, 1])}, "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, tensors, words):
    if tensors is None:
        (tmp_path / FILE).write_bytes(b"nothing")
    else:
        save_file(tensors, tmp_path / FILE)
    with pytest.raises(CareError, match=words):
        Vocabulary.load(tmp_path)
