import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_vectors import ROWS, WIDTH, change_or_save, clustered

from care_accel import ApproximateIndex, CareError, ExactIndex
from care_accel.index.approximate.building import questions
from care_accel.index.approximate.recall import recalls, upper_bound

QUERIES = clustered(60, 5)


def one_by_one(index, queries, k, **options):
    """What is found for each query alone: several at once may be scanned exactly."""
    found = [index.search_in_float64(queries[i : i + 1], k, **options)[:2] for i in range(len(queries))]
    return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))


def require_hits_of_exact(found, exact, queries, k, **options):
    """Every hit has the score and rank of the exact scan of all vectors that may be found, and is there once."""
    scores, ids = found
    every, order = exact.search_in_float64(queries, len(exact), **options)[:2]
    for row in range(len(queries)):
        known = dict(zip(order[row].tolist(), every[row].tolist(), strict=True))
        real = ids[row] >= 0
        assert [known[i] for i in ids[row][real].tolist()] == scores[row][real].tolist()
        assert len(set(ids[row][real].tolist())) == real.sum()
        keys = list(zip((-scores[row]).tolist(), np.where(real, ids[row], len(exact)).tolist(), strict=True))
        assert keys == sorted(keys)
        # As many as there are: what is not found is another vector.
        assert real.sum() == min(k, (order[row] >= 0).sum())


@pytest.mark.parametrize(
    "family",
    [["IVF32,Flat"], ["IVF32,SQ8"], ["IVF32,PQ"], ["IVF32,RaBitQ"], ["HNSW32,SQ8"], ["HNSW16,Flat"]],
)
def test_the_recall_that_was_asked_for_is_there_on_other_queries(build, exact, family):
    index = build(family=family, recall=0.9)
    others = clustered(1500, 77)
    found = recalls(one_by_one(index, others, 10)[0], exact.search_in_float64(others, 10)[0])
    assert upper_bound(found, 0.01) >= 0.9
    # The smallest setting is used, not one that finds everything.
    assert index.choice.held_out.low >= 0.9
    assert index.choice.held_out.recall - 0.03 < found.mean() < index.choice.held_out.recall + 0.03


def test_every_statement_about_a_recall_holds_on_other_queries(build):
    # Several statements at once: a build each for k of 1 and 5, without queries, from other seeds.
    for seed, k in ((1, 1), (2, 5)):
        vectors = np.random.default_rng(seed).standard_normal((2000, 8)).astype(np.float32)
        index = build(vectors, recall=0.9, k=k, queries=None, seed=seed, family=["IVF20,SQ8"])
        others = questions.sampled(vectors, 1500, np.random.default_rng(100 + seed))
        exact = ExactIndex(8)
        exact.add(vectors)
        found = recalls(one_by_one(index, others, k)[0], exact.search_in_float64(others, k)[0])
        assert upper_bound(found, 0.01) >= 0.9
        for subset in index.choice.subsets[:-1]:
            assert subset["low"] >= 0.9


def test_scores_and_order_are_those_of_the_exact_index(shared, exact):
    for k in (1, 3, 10):
        require_hits_of_exact(one_by_one(shared, QUERIES, k), exact, QUERIES, k)
    scores, ids = shared.search(QUERIES[0], k=3)
    assert (scores.dtype, ids.dtype, scores.shape, ids.shape) == (np.float32, np.int64, (3,), (3,))
    _, _, stats = shared.search(QUERIES[0], k=3, return_stats=True)
    assert 0 < stats.rescored <= shared.choice.candidates


def test_equal_vectors_are_ranked_by_their_ids(build):
    vectors = np.repeat(clustered(ROWS // 4, 0), 4, axis=0)
    index, exact = build(vectors, family=["IVF19,Flat"]), ExactIndex(WIDTH)
    exact.add(vectors)
    require_hits_of_exact(one_by_one(index, QUERIES, 10), exact, QUERIES, 10)


@pytest.mark.parametrize("options", [{"k": 11}, {"k": ROWS + 5}, {"width": 5}, {"subset": [3, 1, 2, 3]}])
def test_what_was_not_proven_is_scanned_exactly(shared, exact, options):
    for found, expected in zip(
        shared.search(QUERIES[0], **options), exact.search(QUERIES[0], **options), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_many_queries_at_once_are_scanned_exactly_where_that_is_faster(build, monkeypatch):
    from care_accel.index.approximate.building import choosing

    monkeypatch.setattr(
        choosing,
        "alternating_times",
        lambda searches, calls: [1.0 if len(calls[0]) == 1 else 1e-9, *np.arange(1, len(searches)) * 1e-3],
    )
    index = build()
    assert index.choice.exact_from == 4
    whole = index.exact_hits(QUERIES, 10)
    np.testing.assert_array_equal(index.search(QUERIES, 10)[1], whole[1])
    assert (one_by_one(index, clustered(500, 3), 10)[1] != index.exact_hits(clustered(500, 3), 10)[1]).any()


def test_broad_subsets_are_searched_approximately_and_narrow_ones_exactly(shared, exact):
    least = shared.choice.least_share
    assert least is not None
    rng = np.random.default_rng(0)
    broad, narrow = np.zeros((2, ROWS), dtype=bool)
    broad[rng.permutation(ROWS)[: round(ROWS * (least + 1) / 2)]] = True
    narrow[rng.permutation(ROWS)[: round(ROWS * least * 0.9)]] = True
    queries = clustered(300, 8)
    found = one_by_one(shared, queries, 10, subset=broad)
    require_hits_of_exact(found, exact, queries, 10, subset=broad)
    expected = exact.search_in_float64(queries, 10, subset=broad)
    assert (found[0] != expected[0]).any()
    assert upper_bound(recalls(found[0], expected[0]), 0.01) >= 0.95
    np.testing.assert_array_equal(
        one_by_one(shared, queries, 10, subset=narrow)[1], exact.search(queries, 10, subset=narrow)[1]
    )


def test_a_subset_that_leaves_nothing_near_a_query_is_still_answered_in_full(shared, exact):
    query = QUERIES[:1]
    near = exact.search(query, ROWS // 50)[1][0]
    far = np.ones(ROWS, dtype=bool)
    far[near] = False
    require_hits_of_exact(one_by_one(shared, query, 10, subset=far), exact, query, 10, subset=far)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_whatever_changes_hits_are_those_of_the_exact_index(data, shared_files):
    index = ApproximateIndex.load(shared_files)
    exact = ExactIndex(WIDTH)
    exact.add(index.vectors)
    for _ in range(data.draw(st.integers(1, 4))):
        if change_or_save(data, index, exact, 40):
            folder = shared_files.parent / "again"
            index.save(folder)
            index = ApproximateIndex.load(folder)
    assert (len(index), index.alive) == (len(exact), exact.alive)
    np.testing.assert_array_equal(index.removed, exact.removed)
    np.testing.assert_array_equal(index.vectors, exact.vectors)
    k = data.draw(st.integers(1, 12))
    subset = None
    if data.draw(st.booleans()):
        subset = np.random.default_rng(0).random(len(exact)) < data.draw(st.floats(0, 1))
    require_hits_of_exact(
        one_by_one(index, QUERIES[:5], k, subset=subset), exact, QUERIES[:5], k, subset=subset
    )
    np.testing.assert_array_equal(index.exact_hits(QUERIES, k)[1], exact.search(QUERIES, k)[1])


@pytest.fixture(scope="module")
def shared_files(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("approximate") / "index"
    shared.save(folder)
    return folder


def test_what_is_added_is_found_and_what_is_removed_is_not(build):
    index = build()
    query = QUERIES[:1]
    best = index.search(query, 5)[1][0]
    index.remove(best)
    assert not set(best.tolist()) & set(index.search(query, 10)[1][0].tolist())
    index.add(query)
    assert index.search(query, 1)[1].tolist() == [[ROWS]]
    assert len(index) == ROWS + 1
    assert index.alive == ROWS - 4


def test_many_changes_make_it_stale_until_it_is_built_again(build):
    index = build()
    index.add(clustered(ROWS // 10, 3))
    assert not index.stale
    index.remove(np.arange(ROWS // 8))
    assert index.stale
    assert index.explain().endswith("rebuild()")
    again = index.rebuild(queries=clustered(900, 1))
    assert not again.stale
    assert again.choice.vectors == index.alive == again.alive
    assert again.choice.options == index.choice.options
    assert len(again) == len(index)
    exact = ExactIndex(WIDTH)
    exact.add(index.vectors)
    exact.remove(np.flatnonzero(index.removed))
    require_hits_of_exact(one_by_one(again, QUERIES, 10), exact, QUERIES, 10)
    # The index it was made of may still grow.
    index.add(clustered(5, 1))
    again.add(clustered(5, 2))
    np.testing.assert_array_equal(index.vectors[-5:], clustered(5, 1))
    np.testing.assert_array_equal(again.vectors[-5:], clustered(5, 2))


def test_the_index_it_is_built_of_is_left_alone(build, exact):
    own = ExactIndex(WIDTH, encoder_revision="r", order="slice-then-normalize", threads=2)
    own.add(exact.vectors)
    index = build(own, threads=None)
    assert (index.encoder_revision, index.order, index.threads, index.device) == ("r", own.order, 2, "cpu")
    own.add(clustered(4, 1))
    index.add(clustered(3, 2))
    index.remove([0])
    assert (len(own), own.alive, len(index)) == (ROWS + 4, ROWS + 4, ROWS + 3)
    np.testing.assert_array_equal(own.vectors[-4:], clustered(4, 1))
    with pytest.raises(CareError, match="normalises after it slices"):
        index.search(QUERIES, width=4)


def test_searches_may_run_while_it_changes(build):
    index, failed = build(), []

    def search():
        for _ in range(150):
            scores, ids = index.search(QUERIES[:1], 10)
            if len(set(ids[0].tolist())) != 10 or (np.diff(scores[0]) > 0).any():
                failed.append(ids)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(60):
        index.replace([i], clustered(1, i))
    for thread in threads:
        thread.join()
    assert failed == []


@pytest.mark.parametrize("rows", [0, 1, 30])
def test_few_vectors_are_scanned_exactly_and_it_says_so(rows, tmp_path):
    index = ApproximateIndex.build(np.eye(30, 4, dtype=np.float32)[:rows], 0.999, 3)
    assert "too few" in index.explain()
    index.save(tmp_path / "index")
    again = ApproximateIndex.load(tmp_path / "index")
    again.add(np.full((2, 4), 9, dtype=np.float32))
    assert again.search(np.ones(4, dtype=np.float32), 2)[1].tolist() == [rows, rows + 1]
    assert index.search(np.zeros((0, 4), dtype=np.float32), 2)[0].shape == (0, 2)


def test_the_exact_scan_is_kept_where_nothing_reaches_the_recall(exact_is_slow):
    noise = np.random.default_rng(0).standard_normal((1000, 32)).astype(np.float32)
    index = ApproximateIndex.build(noise, 0.999, 10, queries=None, family=["IVF8,RaBitQ"], threads=1)
    # Codes of one bit lose what 320 candidates do not hold.
    assert index.choice.is_exact
    assert "nothing that fits into memory and budget reaches recall 0.999" in index.explain()
    assert [row.note for row in index.choice.tried[1:]] == ["does not reach the recall"]


def test_vectors_that_are_too_long_for_faiss_are_scanned_exactly(exact_is_slow):
    # Lists of 4-bit codes of these would end the process.
    vectors = 1e20 * clustered(ROWS, 0)
    index = ApproximateIndex.build(vectors, 0.9, queries=clustered(900, 1), family=["IVF32,PQ"], threads=1)
    assert "too long for faiss" in index.explain()
    assert index.search(1e-20 * vectors[7], 1)[1] == [7]


@pytest.mark.parametrize("seconds", [1e-3, 0.95e-6])
def test_the_exact_scan_is_kept_where_nothing_takes_a_tenth_less(exact, exact_is_slow, monkeypatch, seconds):
    from care_accel.index.approximate.building import choosing

    monkeypatch.setattr(
        choosing, "alternating_times", lambda searches, calls: [1e-6, *np.full(len(searches) - 1, seconds)]
    )
    options = {"queries": clustered(900, 1), "threads": 1, "family": ["IVF32,Flat"]}
    index = ApproximateIndex.build(exact, 0.95, **options)
    assert index.choice.is_exact
    assert "the exact scan takes 1 us, IVF32,Flat" in index.explain()
    np.testing.assert_array_equal(index.search(QUERIES, 10)[1], exact.search(QUERIES, 10)[1])


def test_a_setting_that_fails_on_the_queries_kept_apart_is_not_used(exact, exact_is_slow, monkeypatch):

    # Queries that tune lie where lists are easy to find, those kept apart lie anywhere.
    easy, hard = (
        exact.vectors[:300],
        np.random.default_rng(3).standard_normal((600, WIDTH)).astype(np.float32),
    )
    monkeypatch.setattr(questions, "split", lambda *_: (easy, hard))
    index = ApproximateIndex.build(exact, 0.95, queries=clustered(900, 1), threads=1, family=["IVF32,Flat"])
    assert index.choice.attempts
    assert all(one.low < 0.95 for one in index.choice.attempts)
    assert index.choice.is_exact or index.choice.held_out.low >= 0.95


def test_the_same_seed_makes_the_same_choice(build):
    one, other = (build(seed=4) for _ in range(2))
    assert one.choice.held_out == other.choice.held_out
    assert [row.recall for row in one.choice.tried] == [row.recall for row in other.choice.tried]
    assert (one.choice.value, one.choice.data) == (other.choice.value, other.choice.data)


def test_the_default_family_is_tried_within_a_memory_limit(exact, exact_is_slow):
    index = ApproximateIndex.build(exact, 0.9, queries=clustered(900, 1), memory="150 KB", threads=1)
    names = [row.name for row in index.choice.tried]
    assert {"IVF55,SQ8", "HNSW32,SQ8", "HNSW32,Flat"} <= set(names)
    # The other codes are tried with the number of lists that was the fastest one with the first codes, 4-bit codes with fewer, too.
    numbers = {name.removesuffix(",SQ8") for name in names if name.startswith("IVF") and name.endswith("SQ8")}
    assert len(numbers) > 1
    assert len(numbers & {name.removesuffix(",Flat") for name in names}) == 1
    for codes in ("PQ", "RaBitQ"):
        assert any("IVF" in name and codes in name for name in names)
    for row in index.choice.tried[1:]:
        assert row.bytes <= 150_000 or "memory limit" in row.note
    assert any("memory limit" in row.note for row in index.choice.tried)


def test_time_that_is_over_is_said(exact, exact_is_slow):
    index = ApproximateIndex.build(exact, 0.9, queries=clustered(900, 1), budget=0.001, threads=1)
    assert index.choice.is_exact
    assert all("s to build" in row.note or row.note == "time is over" for row in index.choice.tried[1:])


def test_other_numbers_are_rounded_where_that_is_asked_for(build):
    index = build(clustered(ROWS, 0).astype(float), queries=clustered(900, 1).astype(float), convert=True)
    np.testing.assert_array_equal(index.vectors, clustered(ROWS, 0))


def test_it_warns_that_queries_were_sampled(exact, exact_is_slow, caplog):
    index = ApproximateIndex.build(exact, 0.9, family=["IVF32,Flat"], threads=1)
    assert "no queries were given" in caplog.text
    assert "sampled: documents" in index.choice.queries


def test_the_report_says_what_was_tried_and_why(shared, capsys):
    shared.report()
    printed = capsys.readouterr().out
    for part in (shared.explain(), "IVF32,Flat", "recall@10", "nprobe", "on queries kept apart", "900 given"):
        assert part in printed
    assert "IVF32,Flat" in repr(shared)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": 0}, "recall is 0"),
        ({"recall": 1.5}, "recall is 1.5"),
        ({"recall": "high"}, "recall is 'high'"),
        ({"k": 0}, "k is 0"),
        ({"seed": -1}, "seed is -1"),
        (
            {"memory": "1 KB", "queries": clustered(900, 1)},
            "memory is 1,000 bytes, but the smallest structure",
        ),
        ({"queries": np.zeros((0, WIDTH), np.float32)}, "there are no queries"),
        ({"queries": clustered(20, 1)}, "20 queries cannot prove a recall@10 of 0.99: give at least 48"),
        # Fewer than seven hundred prove nothing of a single hit, whatever is found.
        (
            {"queries": clustered(600, 1), "k": 1},
            "600 queries cannot prove a recall@1 of 0.99: give at least 7",
        ),
        ({"recall": 0.9999}, "15,000 queries that would be sampled cannot prove a recall@10 of 0.9999"),
        ({"queries": np.full((900, WIDTH), np.nan, np.float32)}, "row 0 contains a value that is not finite"),
        ({"family": ["IVF1024,Flat"]}, "there are 3,000 vectors"),
        ({"family": "HNSW32,Flat"}, "it must be a list of names"),
        ({"device": "cuda"}, "has no GPU code; install faiss-gpu"),
        ({"queries": clustered(900, 1).astype(float)}, "use convert=True"),
        ({"budget": "soon"}, "budget is 'soon'"),
    ],
)
def test_a_wrong_argument_is_refused_in_one_line(exact, exact_is_slow, options, message):
    with pytest.raises(CareError, match=message.replace("(", r"\(")) as refused:
        ApproximateIndex.build(exact, **{"threads": 1} | options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i: i.search(np.full(WIDTH, np.nan, np.float32)), "not finite"),
        (lambda i: i.search(QUERIES, 0), "k is 0"),
        (lambda i: i.search(QUERIES[:, :3]), "must be"),
        (lambda i: i.search(QUERIES, subset=[ROWS]), "contains id 3000"),
        (lambda i: i.remove([-1]), "contains id -1"),
        (lambda i: i.add(np.full((1, WIDTH), np.inf, np.float32)), "not finite"),
        (lambda i: i.search(QUERIES.astype(float)), "convert=True"),
    ],
)
def test_searches_and_changes_refuse_what_the_exact_index_refuses(shared, exact, call, message):
    for index in (shared, exact):
        with pytest.raises(CareError, match=message):
            call(index)
    assert len(shared) == ROWS


def test_without_faiss_the_extra_is_named(exact, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(CareError, match=r"pip install 'care-accel\[faiss\]'"):
        ApproximateIndex.build(exact)


def test_faiss_is_imported_where_it_is_used():
    code = "import sys; from care_accel import ApproximateIndex; print('faiss' in sys.modules, ApproximateIndex.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "ApproximateIndex"]
