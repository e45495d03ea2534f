"""Shards in one process, without Ray: the hits of `Collection.search` to the last bit, and what happens when shards are away."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from cluster_corpus import WORDS
from hypothesis import given, settings
from hypothesis import strategies as st
from local_shards import Local, rows, split

from care_accel import CareError, Collection
from care_accel.cluster.shards import Router, Shard
from care_accel.cluster.shards.answers import Loaded, Missing, Refused, Request
from care_accel.cluster.shards.calls import Limits, ShardAway
from care_accel.cluster.shards.followed import FollowedTable

NUMBERS = (1, 2, 3, 7)
QUICK = Limits(shard=2.0, hedge=5.0, refresh=0.02, settle=0.2, start=20.0)


@asynccontextmanager
async def routed(uri, shards, limits=QUICK, wait=True):
    router = Router(FollowedTable(str(uri)), shards, limits)
    await router.start(wait=wait)
    try:
        yield router
    finally:
        await router.close()


def made(folder, model, **options):
    """Return a collection with a history: documents changed and deleted, and a field that came later."""
    collection = Collection.create(folder, model, **options)
    collection.upsert(rows(range(24)))
    collection.upsert(rows(range(4, 9), draft=1))
    collection.delete(ids=["d2", "d5", "d17"])
    collection.upsert([{**row, "later": 1} for row in rows(range(24, 31))])
    return collection


@pytest.fixture(scope="module")
def collections(model, tmp_path_factory):
    """Return a collection of whole documents and one of chunks with words, each with its shards by their number."""
    folder = tmp_path_factory.mktemp("shards")
    found = {
        "whole": made(folder / "whole", model),
        "chunks": made(folder / "chunks", model, chunk_tokens=12, lexical=True),
    }
    return {
        name: SimpleNamespace(collection=one, shards={of: split(one.uri, of) for of in NUMBERS})
        for name, one in found.items()
    }


FILTERS = (None, "department = '儿科'", "year >= 2010 AND department <> '内科'", "later = 1", "year < 0")


@settings(deadline=None)
@given(
    kind=st.sampled_from(["whole", "chunks"]),
    of=st.sampled_from(NUMBERS),
    queries=st.lists(st.sampled_from([*WORDS, "多休息", "儿童怎么治疗"]), min_size=1, max_size=3),
    k=st.integers(1, 40),
    condition=st.sampled_from(FILTERS),
    group=st.booleans(),
)
def test_any_number_of_shards_gives_the_hits_of_one_index(
    collections, kind, of, queries, k, condition, group
):
    found = collections[kind]

    async def answer():
        async with routed(found.collection.uri, found.shards[of]) as router:
            vectors = found.collection.model.encode_query(queries)
            return await router.search(vectors, k, queries, filter=condition, group=group)

    answer = asyncio.run(answer())
    assert answer.hits == found.collection.search(queries, k, filter=condition, group=group)
    assert (answer.share, answer.partial, answer.version) == (1.0, False, found.collection.version)
    assert all(len(set(places)) == len(places) for places in answer.positions)


def test_documents_are_cut_between_shards_and_still_found_whole(collections):
    found = collections["chunks"]
    tables = [local.shards[0]._versions[found.collection.version].searcher.table for local in found.shards[7]]
    assert sum(len(table.guests()) for table in tables) > 0
    assert sum(table.documents for table in tables) == len(found.collection)


def test_there_may_be_more_shards_than_documents(model, tmp_path):
    collection = Collection.create(tmp_path / "few", model)
    collection.upsert(rows(range(2)))

    async def hits():
        async with routed(collection.uri, split(collection.uri, 5)) as router:
            return (await router.search(model.encode_query(["感冒"]), 3)).hits

    assert asyncio.run(hits()) == collection.search(["感冒"], 3)


def test_a_mistake_in_a_filter_is_told_as_by_the_collection(collections):
    found = collections["whole"]
    with pytest.raises(CareError) as expected:
        found.collection.search("感冒", filter="nothing = 1")

    async def search():
        async with routed(found.collection.uri, found.shards[3]) as router:
            await router.search(
                np.zeros((1, found.collection.manifest.width), np.float32), filter="nothing = 1"
            )

    with pytest.raises(CareError) as told:
        asyncio.run(search())
    assert str(told.value) == str(expected.value)


def test_a_replica_that_dies_is_not_noticed(collections):
    collection = collections["whole"].collection
    shards = split(collection.uri, 2, replicas=2)
    expected = collection.search(WORDS, 5)

    async def search():
        async with routed(collection.uri, shards) as router:
            shards[0].down, shards[1].down = {0}, {1}
            return [(await router.search(collection.model.encode_query(WORDS), 5)).hits for _ in range(4)]

    assert asyncio.run(search()) == [expected] * 4
    assert ("search", 0) in shards[0].calls
    assert ("search", 1) in shards[1].calls


def test_a_shard_that_is_away_is_told_and_comes_back(collections):
    collection = collections["whole"].collection
    shards = split(collection.uri, 3)
    vectors = collection.model.encode_query(["感冒怎么办"])
    of_others = {hit.id for hit in collection.search("感冒怎么办", 100)}
    lost = shards[1].shards[0]._versions[collection.version].searcher
    lost_ids = {lost.document(position)[0] for position in np.flatnonzero(lost.snapshot.alive)}
    of_others -= lost_ids

    async def search():
        async with routed(collection.uri, shards) as router:
            shards[1].down = {0}
            with pytest.raises(ShardAway, match=r"1 of 3 shards do not answer \(shard 2/3: killed\)"):
                await router.search(vectors, 100)
            partial = await router.search(vectors, 100, require_all=False)
            shards[1].down = set()
            async with asyncio.timeout(10):
                while router.away:
                    await asyncio.sleep(0.02)
            return partial, await router.search(vectors, 100)

    partial, whole = asyncio.run(search())
    assert partial.partial
    assert partial.share == pytest.approx(1 - len(lost_ids) / len(collection))
    assert {hit.id for hit in partial.hits[0]} == of_others
    assert not whole.partial
    assert whole.hits == collection.search(["感冒怎么办"], 100)


def test_nothing_is_answered_without_any_shard(collections):
    collection = collections["whole"].collection
    shards = split(collection.uri, 2)

    async def search():
        async with routed(collection.uri, shards) as router:
            shards[0].down = shards[1].down = {0}
            await router.search(collection.model.encode_query(["感冒"]), require_all=False)

    with pytest.raises(ShardAway, match="2 of 2"):
        asyncio.run(search())


def test_a_slow_replica_is_overtaken_by_another(collections):
    collection = collections["whole"].collection
    shards = split(collection.uri, 1, replicas=2)

    async def search():
        async with routed(collection.uri, shards, Limits(shard=30.0, hedge=0.01, refresh=60)) as router:
            shards[0].slow, shards[0].calls = {0: 3600.0}, []
            vectors = collection.model.encode_query(["感冒"])
            return [(await router.search(vectors, 5)).hits for _ in range(3)]

    assert asyncio.run(search()) == [collection.search(["感冒"], 5)] * 3


class Late:
    """A shard that says that it has no version after the first until it may."""

    def __init__(self, shard):
        self._shard, self.may, self._first = shard, False, None

    def load(self, version):
        self._first = self._first or version
        if version != self._first and not self.may:
            return Loaded("late", False)
        return self._shard.load(version)

    def search(self, request):
        return self._shard.search(request)


def test_a_new_version_is_searched_once_all_shards_have_it(model, tmp_path):
    collection = Collection.create(tmp_path / "changes", model)
    collection.upsert(rows(range(20)))
    old, before = collection.version, collection.search(WORDS, 8)
    late = Late(Shard(collection.uri, 1, 2))
    shards = [Local(Shard(collection.uri, 0, 2)), Local(late)]
    vectors = model.encode_query(WORDS)

    async def search():
        async with routed(collection.uri, shards) as router:
            collection.upsert(rows(range(10, 25), draft=2))
            collection.delete(ids=["d0", "d1"])
            async with asyncio.timeout(20):
                while not shards[0].shards[0].load(collection.version).ready:
                    await asyncio.sleep(0.02)
            waiting = await router.search(vectors, 8)
            late.may = True
            async with asyncio.timeout(20):
                while router.version == old:
                    await asyncio.sleep(0.02)
            return waiting, await router.search(vectors, 8)

    waiting, after = asyncio.run(search())
    assert (waiting.version, waiting.hits) == (old, before)
    assert (after.version, after.hits) == (collection.version, collection.search(WORDS, 8))


def test_a_replica_without_the_version_loads_it_while_another_answers(collections):
    collection = collections["whole"].collection
    shards = split(collection.uri, 1, replicas=2)
    vectors = collection.model.encode_query(["感冒"])

    async def search():
        async with routed(collection.uri, shards) as router:
            shards[0].shards[1]._versions.clear()
            found = [(await router.search(vectors, 4)).hits for _ in range(2)]
            async with asyncio.timeout(20):
                while not shards[0].shards[1].load(router.version).ready:
                    await asyncio.sleep(0.02)
            return found

    assert asyncio.run(search()) == [collection.search(["感冒"], 4)] * 2


def test_a_shard_says_that_a_version_is_missing_or_a_request_is_wrong(collections):
    collection = collections["whole"].collection
    shard = Shard(collection.uri, 0, 1)
    assert shard.documents(10_000, [0]) == Missing(10_000)
    wrong = Request(collection.version, 3, True, "nothing = 1", collection.model.encode_query(["感冒"]))
    assert isinstance(shard.search(wrong), Refused)
    with pytest.raises(CareError, match="no part 3 of 3"):
        Shard(collection.uri, 3, 3)


def test_a_shard_whose_scan_goes_wrong_is_told_by_its_check(collections):
    shard = Shard(collections["whole"].collection.uri, 0, 2)
    shard.check()
    (version,) = shard._versions.values()
    version.searcher.snapshot.index.remove([version.canary.position])
    with pytest.raises(CareError, match="does not find what it found"):
        shard.check()


def test_a_version_that_was_removed_under_a_filter_is_missing_and_no_mistake_of_who_asks(tmp_path, model):
    made = Collection.create(tmp_path / "c", model)
    made.upsert([{"id": f"d{i}", "text": "感冒多喝水", "year": i} for i in range(4)])
    shard = Shard(made.uri, 0, 1)
    version = made.version
    made.upsert([{"id": "d0", "text": "骨折后应固定", "year": 9}])
    made.compact(keep_days=0)
    vectors = model.encode_query(["感冒"])
    assert shard.search(Request(version, 3, True, "year > 1", vectors)) == Missing(version)
    assert len(shard.search(Request(version, 3, True, None, vectors)).hits[0]) == 3
