"""Approximate indexes whose choice does not depend on how fast this machine is."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from planted_vectors import ROWS, WIDTH, clustered

from care_accel import ApproximateIndex, ExactIndex
from care_accel.index.approximate.building import choosing, run


@pytest.fixture(scope="session")
def exact_is_slow():
    """As where vectors are many: the exact scan takes longer than anything else, and of the others each longer than the one before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_floor", lambda tuner: None)
        patch.setattr(
            choosing, "alternating_times", lambda searches, calls: [1.0, *np.arange(1, len(searches)) * 1e-3]
        )
        yield


@pytest.fixture(scope="session")
def build(exact_is_slow):
    """Return a function that builds an index which is not the exact scan."""

    def make(vectors=None, recall=0.95, k=10, **options):
        if vectors is None:
            vectors = clustered(ROWS, 0)
        defaults = {"queries": clustered(900, 1), "family": ["IVF32,Flat"], "threads": 1}
        index = ApproximateIndex.build(vectors, recall, k, **defaults | options)
        assert not index.choice.is_exact, index.explain()
        return index

    return make


@pytest.fixture(scope="session")
def shared(build):
    """Return such an index, which no test changes."""
    return build()


@pytest.fixture(scope="session")
def exact():
    """Return the exact index of the same vectors."""
    index = ExactIndex(WIDTH)
    index.add(clustered(ROWS, 0))
    return index
