"""Which threads the network and the index of a served model get."""

from types import SimpleNamespace

from care_accel.serving.backend.shared_cores import SharedCores, fair_threads


def test_a_single_client_s_text_gets_all_threads_and_a_batch_leaves_some_to_others():
    runtime = SimpleNamespace(threads=4)
    cores = SharedCores(runtime, 4, 2**20)
    given = [runtime.threads]
    for texts in (1, 1, 1, 8, 1, 7, 1, 1):
        cores.share(texts)
        given.append(runtime.threads)
    assert given == [2, 2, 4, 4, 2, 2, 2, 2, 4]


def test_a_large_network_has_all_threads_for_any_batch():
    runtime = SimpleNamespace(threads=4)
    cores = SharedCores(runtime, 4, 2**30)
    for texts in (8, 1, 8):
        cores.share(texts)
        assert runtime.threads == 4


def test_what_is_read_from_a_cache_leaves_half_of_the_cores_to_others():
    assert [fair_threads(threads, 2**20) for threads in (1, 2, 3, 16)] == [1, 1, 1, 8]
    assert fair_threads(16, 2**30) == 16
