"""Encoding for hours: batches that do not fit, and vectors that are useless."""

import numpy as np
import pytest
from cluster_corpus import WORDS

from care_accel import CareError
from care_accel.cluster.steady import SteadyEncoder, UselessVector, is_out_of_memory


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


class Limited:
    """An encoder that has memory for some texts a batch; a vector is the length of its text."""

    def __init__(self, encoder, fits):
        self.spec, self.counts, self.tokenizer = encoder.spec, encoder.counts, None
        self.fits, self.sizes = fits, []

    def encode(self, texts, *, task, batch_size, token_budget):
        self.sizes.append(batch_size)
        if batch_size > self.fits:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return np.repeat(np.float32([[len(text)] for text in texts]), self.spec.width, axis=1)


@pytest.fixture
def limited(model):
    return Limited(model.encoder("document"), fits=20)


def texts(count):
    return [WORDS[i % 10] * (1 + i % 7) for i in range(count)]


def test_a_batch_that_does_not_fit_is_halved_tried_again_and_grown_back(limited):
    steady = SteadyEncoder(limited)
    some = texts(1024 * 20)
    vectors = steady.encode(some)
    assert np.array_equal(vectors[:, 0], [len(text) for text in some])
    assert limited.sizes[:4] == [64, 32, 16, 16]
    # After sixteen that fit, the larger one is tried, and halved again.
    assert limited.sizes[17:20] == [16, 32, 16]
    assert steady.halved == 3


def test_one_text_that_does_not_fit_is_an_error_and_no_loop(limited):
    limited.fits = 0
    with pytest.raises(CareError, match="one text does not fit into memory"):
        SteadyEncoder(limited).encode(texts(3))


def test_only_errors_of_memory_are_tried_again(limited):
    limited.encode = lambda texts, **options: (_ for _ in ()).throw(RuntimeError("device-side assert"))
    with pytest.raises(RuntimeError, match="assert"):
        SteadyEncoder(limited).encode(texts(3))
    assert is_out_of_memory(MemoryError())


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_useless_vector_is_never_handed_on(limited, value):
    encode = limited.encode
    some = texts(30)

    def broken(given, **options):
        vectors = encode(given, **options)
        vectors[given.index(some[13])] = value
        return vectors

    limited.encode, limited.fits = broken, 64
    with pytest.raises(UselessVector) as told:
        SteadyEncoder(limited).encode(some)
    assert told.value.text == some[13]


def test_vectors_are_those_of_the_encoder_to_the_last_bit(model):
    encoder = model.encoder("document")
    some = texts(40)
    assert np.array_equal(SteadyEncoder(encoder).encode(some), encoder.encode(some))


def test_a_budget_of_tokens_lets_short_texts_be_many_in_a_batch(limited):
    limited.fits = 10_000
    budgets = []
    encode = limited.encode

    def noted(given, **options):
        budgets.append(options["token_budget"])
        return encode(given, **options)

    limited.encode = noted
    SteadyEncoder(limited, 32_768).encode(texts(9))
    SteadyEncoder(limited, 100).encode(texts(9))
    assert (limited.sizes, budgets) == ([2048, 64], [32_768, 100])
