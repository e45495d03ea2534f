import numpy as np
import pytest
from planted_vectors import clustered

from care_accel import CareError
from care_accel.index.approximate import family
from care_accel.index.approximate.family import Kind, Structure
from care_accel.index.approximate.lists import TooSlowError

VECTORS = clustered(3000, 0)
KINDS = [Kind(32, 0, "SQ8"), Kind(16, 0, "Flat"), *(Kind(0, 20, codes) for codes in family.CODES)]


def built(kind, **options):
    return family.build(kind, VECTORS, **{"seconds": 60, "seed": 0, "threads": 1, "lists": {}} | options)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_finds_the_vector_that_is_the_query_and_may_be_told_where_to_look(kind):
    import faiss

    structure = built(kind)
    whole = kind.values(len(VECTORS), 40)[-1]
    found = structure.search(VECTORS[:50], 40, structure.parameters(whole), 1)
    assert (found == np.arange(50)[:, None]).any(axis=1).all()
    alone = np.concatenate(
        [structure.search(VECTORS[i : i + 1], 40, structure.parameters(whole), 1) for i in range(50)]
    )
    np.testing.assert_array_equal(np.sort(found), np.sort(alone))
    even = np.zeros(len(VECTORS), dtype=bool)
    even[::2] = True
    some = structure.parameters(whole, faiss.IDSelectorBitmap(np.packbits(even, bitorder="little")))
    chosen = structure.search(VECTORS[:50], 40, some, 1)
    assert (chosen[chosen >= 0] % 2 == 0).all()
    assert (chosen >= 0).any(axis=1).all()
    # Its estimate decides what is built within a memory limit.
    assert 0.6 < kind.estimated_bytes(*VECTORS.shape) / structure.bytes() < 1.5
    assert structure.lists == kind.lists


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_hits_do_not_depend_on_the_length_of_a_query(kind):
    structure = built(kind)
    parameters = structure.parameters(structure.lists or 50)
    expected = structure.search(VECTORS[:20], 30, parameters, 1)
    for length in (1e-20, 1e10):
        found = structure.search(np.float32(length) * VECTORS[:20], 30, parameters, 1)
        same = [
            len(set(one) & set(other)) for one, other in zip(found.tolist(), expected.tolist(), strict=True)
        ]
        assert np.mean(same) > 29  # rounding may exchange neighbours


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_same_seed_builds_the_same(kind):
    import faiss

    one, other = (faiss.serialize_index(built(kind).index) for _ in range(2))
    assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("codes", ["SQ8", "PQ", "RaBitQ"])
def test_lists_are_found_once_for_all_codes(codes):
    import faiss

    lists = {}
    structures = [
        built(Kind(0, 20, some), lists=lists, seed=seed) for seed, some in enumerate(("Flat", codes))
    ]
    first, other = (faiss.extract_index_ivf(structure.index).invlists for structure in structures)
    assert list(lists) == [20]
    for number in range(20):
        ids = [
            faiss.rev_swig_ptr(one.get_ids(number), one.list_size(number)).copy() for one in (first, other)
        ]
        np.testing.assert_array_equal(*ids)


def test_lists_are_found_by_codes_of_many_centres_and_nearly_the_same_ones(monkeypatch):
    import faiss

    lists = {}
    kind = Kind(0, 16 * family.PER_LIST, "PQ")
    plain = built(kind, lists=lists)
    monkeypatch.setattr(family, "_MANY_CENTRES_BYTES", lists[kind.lists].centres.nbytes)
    coded = built(kind, lists=lists)
    saved = Structure(coded.name, faiss.deserialize_index(faiss.serialize_index(coded.index)))
    assert isinstance(faiss.downcast_index(saved.index.quantizer), faiss.IndexRefine)
    expected, found, loaded = (
        one.search(VECTORS[:200], 10, one.parameters(30), 1) for one in (plain, coded, saved)
    )
    np.testing.assert_array_equal(found, loaded)
    shared = [len(np.intersect1d(*rows)) for rows in zip(expected, found, strict=True)]
    assert np.mean(shared) > 9.5
    everything = [one.search(VECTORS[:200], 10, one.parameters(kind.lists), 1) for one in (plain, coded)]
    np.testing.assert_array_equal(*everything)
    # Fewer centres are compared one by one.
    assert isinstance(faiss.downcast_index(built(Kind(0, 20, "PQ")).index.quantizer), faiss.IndexFlat)


def test_a_structure_with_given_lists_is_what_faiss_makes_itself():
    import faiss

    lists = {}
    mine = built(Kind(0, 20, "PQ"), lists=lists).index
    own = faiss.index_factory(
        VECTORS.shape[1], Kind(0, 20, "PQ").name(VECTORS.shape[1]), faiss.METRIC_INNER_PRODUCT
    )
    own.quantizer.add(lists[20].centres)
    own.train(VECTORS)
    own.add(VECTORS)
    for index in (mine, own):
        index.nprobe = 5
    np.testing.assert_array_equal(mine.search(VECTORS[:50], 10)[1], own.search(VECTORS[:50], 10)[1])


def test_few_vectors_for_their_codes_are_no_reason_to_print_a_warning(capfd):
    family.build(Kind(0, 12, "PQ"), VECTORS[:500], seconds=60, seed=0, threads=1, lists={})
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", [Kind(32, 0, "Flat"), Kind(0, 70, "Flat")])
def test_what_would_take_too_long_is_given_up(kind):
    with pytest.raises(TooSlowError, match="would take some"):
        built(kind, seconds=1e-9)


def test_fewer_neighbours_are_looked_through_where_more_would_take_too_long(monkeypatch):
    real = family._add_to_graph

    def slow(index, *arguments):
        if index.hnsw.efConstruction > 100:
            raise TooSlowError("would take some 90 s to build")
        real(index, *arguments)

    monkeypatch.setattr(family, "_add_to_graph", slow)
    structure = built(Kind(16, 0, "Flat"))
    assert structure.index.hnsw.efConstruction == family._CONSTRUCTION[-1]
    assert structure.index.ntotal == len(VECTORS)


def test_as_many_candidates_are_rescored_as_codes_need_but_no_more_than_half_of_the_vectors():
    assert Kind(0, 20, "Flat").candidates(10, 3000) == [12]
    assert Kind(0, 20, "PQ").candidates(10, 10**6) == [20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640]
    assert Kind(0, 20, "PQ").candidates(10, 200) == [20, 30, 40, 60, 80]
    assert Kind(0, 20, "PQ").candidates(100, 10**6)[-1] == 1600
    assert Kind(0, 20, "PQ").candidates(10, 20) == [20]


def test_names_are_read_and_others_refused():
    assert family.parse("HNSW32,SQ8", 10) == Kind(32, 0, "SQ8")
    assert family.parse("IVF20,RaBitQ", 3000) == Kind(0, 20, "RaBitQ")
    assert Kind(0, 20, "RaBitQ").name(16) == "RR16,IVF20,RaBitQ"
    assert Kind(0, 20, "PQ").name(15) == "IVF20,PQ5x4fsr"
    for wrong in ("LSH", "HNSW32", "HNSW32,PQ", "IVF0,Flat", "HNSW1,Flat", "IVF20,Flat "):
        with pytest.raises(CareError, match="family has"):
            family.parse(wrong, 3000)


def test_fewer_vectors_than_lists_need_are_refused():
    with pytest.raises(
        CareError, match=r"'IVF100,Flat', but there are 3,000 vectors; lists need 39 each, so at most 76"
    ):
        family.parse("IVF100,Flat", 3000)


@pytest.mark.parametrize("count", [1, 50, 500, 10**6])
def test_lists_are_never_more_than_vectors_can_fill(count):
    assert all(1 < lists <= count / 39 for lists in family.lists_tried(count))


def test_values_ascend_to_where_all_is_searched():
    assert Kind(0, 20, "Flat").values(3000, 12)[-1] == 20
    values = Kind(32, 0, "Flat").values(3000, 12)
    assert values[0] == 12
    assert values[-1] == 3000
    assert values == sorted(set(values))
