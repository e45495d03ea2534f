import stat

import numpy as np
import pytest

from care_accel.errors import CareError
from care_accel.eval.cache import EmbeddingCache, vector_keys


def test_what_was_put_comes_back_bit_for_bit_after_reopening(tmp_path):
    rng = np.random.default_rng(0)
    keys = [bytes([i % 256, i // 256]) for i in range(1200)]  # more than one statement can name
    vectors = rng.standard_normal((len(keys), 5)).astype(np.float32)
    cache = EmbeddingCache(tmp_path / "cache")
    cache.put(keys, vectors)
    cache.close()
    found = EmbeddingCache(tmp_path / "cache").get([*keys, b"absent"])
    assert set(found) == set(keys)
    np.testing.assert_array_equal(np.stack([found[key] for key in keys]), vectors)


def test_only_the_owner_can_read_the_file(tmp_path):
    EmbeddingCache(tmp_path / "cache")
    assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o600


def test_a_file_that_is_no_cache_is_refused_in_one_line(tmp_path):
    (tmp_path / "cache").write_bytes(b"something else entirely " * 100)
    with pytest.raises(CareError, match="cannot be used as an embedding cache"):
        EmbeddingCache(tmp_path / "cache")


def test_a_full_disk_is_told_in_one_line_and_what_was_there_stays(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache")
    cache.put([b"first"], np.ones((1, 4), np.float32))
    cache._connection.execute("PRAGMA max_page_count = 4")
    with pytest.raises(CareError, match="cache: the disk is full; what it has is kept; free some space"):
        cache.put([bytes([i]) for i in range(200)], np.ones((200, 400), np.float32))
    assert set(cache.get([b"first", bytes([1])])) == {b"first"}


def test_a_key_follows_everything_that_decides_a_vector(tiny_model, tiny_folders):
    from care_accel import DualEncoder

    def keys(model, role="query", task="retrieval", text="头痛"):
        return vector_keys(model, role, task, [text])[0]

    folders = {"query": tiny_folders / "query_encoder", "document": tiny_folders / "document_encoder"}
    other = {
        "role": keys(tiny_model, role="document"),
        "prompt": keys(tiny_model, task="sts"),
        "text": keys(tiny_model, text="头疼"),
        "width": keys(DualEncoder.from_pretrained(**folders, preset="care", width=8)),
        "pooling and order": keys(DualEncoder.from_pretrained(**folders, width=tiny_model.width)),
        "dtype": keys(DualEncoder.from_pretrained(**folders, preset="care", width=24, dtype="bfloat16")),
        "runtime": keys(DualEncoder.from_pretrained(**folders, preset="care", width=24)),
        "length": keys(DualEncoder.from_pretrained(**folders, preset="care", width=24, max_tokens=9)),
    }
    assert keys(tiny_model) not in other.values()
    assert len(set(other.values())) == len(other)
    again = DualEncoder.from_pretrained(**folders, preset="care", width=24, runtime="pytorch")
    assert keys(again) == keys(tiny_model)


def test_texts_with_lone_surrogates_have_keys(tiny_model):
    assert len(vector_keys(tiny_model, "query", "retrieval", ["\ud800"])[0]) == 32


def test_anew_hands_out_its_own_vectors_only_and_keeps_those_of_others(tmp_path):
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    EmbeddingCache(tmp_path / "c").put([b"a", b"b"], vectors)
    fresh = EmbeddingCache(tmp_path / "c", refresh=True)
    assert fresh.get([b"a", b"b"]) == {}
    fresh.put([b"a"], vectors[1:])
    assert set(fresh.get([b"a", b"b"])) == {b"a"}
    found = EmbeddingCache(tmp_path / "c").get([b"a", b"b"])
    np.testing.assert_array_equal(found[b"a"], vectors[1])
    np.testing.assert_array_equal(found[b"b"], vectors[1])
