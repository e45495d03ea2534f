"""Vectors in clusters, which lists find, and changes of them."""

import numpy as np
from hypothesis import strategies as st

ROWS, WIDTH = 3000, 16


def clustered(rows, seed, width=WIDTH):
    centres = np.random.default_rng(99).standard_normal((60, width))
    rng = np.random.default_rng(seed)
    vectors = centres[rng.integers(0, 60, rows)] + 0.5 * rng.standard_normal((rows, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def change_or_save(data, index, exact, most_rows):
    """Make a drawn change in both indexes; return True if the draw was to save instead."""
    step = data.draw(st.sampled_from(["add", "remove", "replace", "save"]))
    rows = clustered(data.draw(st.integers(0, most_rows)), data.draw(st.integers(0, 9)))
    ids = data.draw(st.lists(st.integers(0, len(exact) - 1), max_size=30))
    if step == "add":
        index.add(rows)
        exact.add(rows)
    elif step == "remove":
        assert index.remove(ids) == exact.remove(ids)
    elif step == "replace":
        np.testing.assert_array_equal(index.replace(ids, rows), exact.replace(ids, rows))
    return step == "save"
