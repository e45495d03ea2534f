"""Scores of documents that lie in several indexes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from care_accel.index.lexical.lexical_index import LexicalIndex
from care_accel.index.lexical.statistics import WithStatistics, total

TEXTS = st.text(alphabet="高血压糖尿病怎么治疗 ab", max_size=12)


@settings(deadline=None)
@given(
    documents=st.lists(TEXTS, max_size=20),
    queries=st.lists(TEXTS, min_size=1, max_size=3, unique=True),
    cut=st.integers(0, 20),
    removed=st.sets(st.integers(0, 19)),
)
def test_several_indexes_score_as_one_to_the_last_bit(documents, queries, cut, removed):
    gone = sorted(number for number in removed if number < len(documents))
    cut = min(cut, len(documents))
    whole = LexicalIndex(documents).with_removed(gone)
    parts = [
        LexicalIndex(documents[:cut]).with_removed([number for number in gone if number < cut]),
        LexicalIndex(documents[cut:]).with_removed([number - cut for number in gone if number >= cut]),
    ]
    statistics = total([part.statistics(queries) for part in parts])
    assert statistics[:2] == whole.statistics(queries)[:2]
    scoring = [WithStatistics(part, queries, statistics) for part in parts]
    for query in queries:
        found = np.concatenate([part.scores(query) for part in scoring])
        assert np.array_equal(found.view(np.uint32), whole.scores(query).view(np.uint32))
