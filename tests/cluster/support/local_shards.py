"""Shards in this process, without Ray."""

import asyncio
import itertools

from cluster_corpus import WORDS

from care_accel.cluster.shards import Shard
from care_accel.cluster.shards.calls import ShardGone


def rows(numbers, draft=0):
    """Return documents of which several have the same text, so that scores tie, and one in three has several sentences."""
    return [
        {
            "id": f"d{number}",
            "text": f"{WORDS[number % 5]}怎么治疗。" * (4 if number % 3 == 0 else 1) + "多休息。" * draft,
            "department": ["儿科", "内科", "外科"][number % 3],
            "year": 2000 + number,
        }
        for number in numbers
    ]


class Local:
    """Replicas of a shard in this process; those that are down are gone, and each call goes to the next one."""

    def __init__(self, *replicas):
        self.shards, self.replicas = list(replicas), len(replicas)
        self.down, self.slow, self.calls = set(), {}, []
        self._next = itertools.count()

    async def call(self, method, *arguments):
        number = next(self._next) % self.replicas
        self.calls.append((method, number))
        if number in self.slow:
            await asyncio.sleep(self.slow[number])
        if number in self.down:
            raise ShardGone("killed")
        return getattr(self.shards[number], method)(*arguments)


def split(uri, of, replicas=1):
    return [Local(*(Shard(str(uri), number, of) for _ in range(replicas))) for number in range(of)]
