import numpy as np
import pytest
from planted_vectors import clustered

from care_accel.index.approximate.building.questions import sampled


@pytest.mark.parametrize("length", [1e-30, 1e25])
def test_sampled_queries_are_as_long_as_documents_and_not_documents(length):
    vectors = clustered(200, 0)
    scaled, plain = (
        sampled(np.float32(scale) * vectors, 50, np.random.default_rng(0)) for scale in (length, 1)
    )
    np.testing.assert_allclose(scaled / np.float32(length), plain, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(plain, axis=1), 1, rtol=1e-6)
    assert (plain @ vectors.T).max() < 0.999
