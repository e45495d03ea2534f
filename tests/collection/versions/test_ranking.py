import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from care_accel.collection.versions.ranking import rank

# Scores of chunks with many ties, and the document of each.
CHUNKS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=24)


class Index:
    """Chunks that are searched as an index does: equal scores by position."""

    def __init__(self, chunks, order):
        self.chunks = [chunks[i] for i in order]
        self.numbers = order  # of the chunk, whatever its position
        self.depths = []

    def search(self, rows, depth):
        self.depths.append(depth)
        scores = np.array([float(score) for score, _ in self.chunks])
        best = np.argsort(-scores, kind="stable")[:depth]
        found = np.full((len(rows), depth), -np.inf), np.full((len(rows), depth), -1)
        found[0][:, : len(best)], found[1][:, : len(best)] = scores[best], best
        return found

    def names(self, positions):
        return [(f"doc{self.chunks[p][1]}", self.numbers[p]) for p in positions]

    def group(self, positions):
        return np.array([self.chunks[p][1] if p >= 0 else -1 for p in positions])


@given(chunks=CHUNKS, k=st.integers(1, 8), grouped=st.booleans(), data=st.data())
def test_the_order_does_not_depend_on_positions_and_every_document_is_there_once(chunks, k, grouped, data):
    order = data.draw(st.permutations(range(len(chunks))))
    index = Index(chunks, order)
    found = rank(
        index.search, 1, k, names=index.names, group=index.group if grouped else None, reachable=len(chunks)
    )[0]
    expected = sorted((-score, f"doc{document}", number) for number, (score, document) in enumerate(chunks))
    if grouped:
        best = {}
        for hit in expected:
            best.setdefault(hit[1], hit)
        expected = list(best.values())
    assert [(-hit.score, *index.names([hit.position])[0]) for hit in found] == expected[:k]


def test_it_goes_deeper_only_where_it_has_to():
    chunks = [(100 - i, i) for i in range(100)]
    index = Index(chunks, list(range(100)))
    rank(index.search, 3, 5, names=index.names, group=None, reachable=100)
    assert len(index.depths) == 1
    # A document with many good chunks hides the others.
    chunks = [(100, 0)] * 60 + [(50 - i, 1 + i) for i in range(40)]
    index = Index(chunks, list(range(100)))
    found = rank(index.search, 1, 5, names=index.names, group=index.group, reachable=100)
    assert [index.chunks[hit.position][1] for hit in found[0]] == [0, 1, 2, 3, 4]
    assert len(index.depths) > 1


def test_nothing_to_find():
    index = Index([], [])
    assert rank(index.search, 2, 3, names=index.names, group=None, reachable=0) == [[], []]
