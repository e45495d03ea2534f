"""Which threads the encoder of a served model gets."""

from types import SimpleNamespace

from care_accel.serving.backend.encoders import SharedCores


def test_a_single_client_s_text_gets_all_threads_and_a_batch_leaves_some_to_others():
    runtime = SimpleNamespace(threads=4, nbytes=2**20)
    cores = SharedCores(runtime)
    given = [runtime.threads]
    for texts in (1, 1, 1, 8, 1, 7, 1, 1):
        cores.share(texts)
        given.append(runtime.threads)
    assert given == [2, 2, 4, 4, 2, 2, 2, 2, 4]


def test_a_large_network_has_all_threads_for_any_batch():
    runtime = SimpleNamespace(threads=4, nbytes=2**30)
    cores = SharedCores(runtime)
    for texts in (8, 1, 8):
        cores.share(texts)
        assert runtime.threads == 4
