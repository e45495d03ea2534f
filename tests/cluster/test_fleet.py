"""What the driver does with workers that die, hang or come: on a cluster that is played, so that nothing depends on time."""

from types import SimpleNamespace

import pytest

from care_accel import CareError
from care_accel.cluster import ray_engine
from care_accel.cluster.plan import Part
from care_accel.cluster.ray_engine import Settings, _Fleet


class RayError(Exception):
    pass


class RaySystemError(RayError):
    pass


class RpcError(RayError):
    pass


class ActorDiedError(RayError):
    pass


class Played:
    """As much of Ray as the engine uses; `answer(worker, call, part)` says what a call gives, None for nothing yet."""

    exceptions = SimpleNamespace(
        RayError=RayError,
        RaySystemError=RaySystemError,
        LocalRayletDiedError=RaySystemError,
        RpcError=RpcError,
    )

    def __init__(self, cpus=2):
        self.cpus, self.made, self.time, self.killed = cpus, 0, 0.0, set()
        self.answer = lambda worker, call, part: {"where": ("host", worker), "start": {"runtime": "r"}}.get(
            call, {"record": {"of": part}}
        )

    def remote(self, kind):
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=self._worker))

    def _worker(self, *arguments):
        self.made += 1
        number = self.made

        def call(name):
            return SimpleNamespace(remote=lambda part=None: (number, name, part and part.number))

        return SimpleNamespace(number=number, where=call("where"), start=call("start"), encode=call("encode"))

    def _found(self, reference):
        if reference[0] in self.killed:
            return ActorDiedError("it was killed")
        return self.answer(*reference)

    def wait(self, references, num_returns, timeout):
        self.time += timeout
        ready = [one for one in references if self._found(one) is not None][:num_returns]
        return ready, [one for one in references if one not in ready]

    def get(self, reference):
        found = self._found(reference)
        if isinstance(found, Exception):
            raise found
        return found

    def kill(self, handle):
        self.killed.add(handle.number)

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": self.cpus}}]

    def cluster_resources(self):
        return {"CPU": self.cpus}

    def get_runtime_context(self):
        return SimpleNamespace(gcs_address="127.0.0.1:1")


class Sink:
    def __init__(self):
        self.parts, self.set_aside, self.deaths, self.told, self.waited = {}, {}, [], [], []

    def done(self, part, record, worker):
        assert part.number not in self.parts
        self.parts[part.number] = worker

    def aside(self, part, reason):
        self.set_aside[part.number] = reason

    def died(self, worker, reason):
        self.deaths.append(worker)

    def tell(self, event, text, **values):
        self.told.append(text)

    def tick(self, waiting_for):
        self.waited.append(waiting_for)

    def stopped(self):
        return False


@pytest.fixture
def ray(monkeypatch):
    played = Played()
    monkeypatch.setitem(__import__("sys").modules, "ray", played)
    monkeypatch.setattr(ray_engine, "monotonic", lambda: played.time)
    monkeypatch.setattr(ray_engine, "sleep", lambda seconds: setattr(played, "time", played.time + seconds))
    monkeypatch.setattr(ray_engine, "Head", lambda address: SimpleNamespace(answers=lambda: True))
    return played


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def work(ray, sink):
    def run(parts=6, **settings):
        all_parts = [Part(number, (), 1) for number in range(parts)]
        nothing = SimpleNamespace(record=lambda number: None)
        limits = {"place_seconds": 50.0, "start_seconds": 30.0, "part_seconds": 20.0} | settings
        _Fleet(all_parts, None, nothing, b"", Settings("auto", **limits), sink).work()
        return sink

    return run


def usual(ray):
    """Return what the workers answer when nothing is wrong."""
    return Played(ray.cpus).answer


@pytest.mark.parametrize("error", [ActorDiedError, RayError])
def test_whatever_ends_a_call_hands_its_part_to_another_worker(ray, work, error):
    """A worker may die of memory, with its node, or lose its answer: Ray has an error for each."""
    answer = usual(ray)
    ray.answer = lambda worker, call, part: (
        error("no more memory") if (worker, call) == (1, "encode") else answer(worker, call, part)
    )
    sink = work()
    assert set(sink.parts) == set(range(6))
    assert (sink.set_aside, sink.deaths) == ({}, ["host:1"])
    assert 1 in ray.killed


@pytest.mark.parametrize("error", [RaySystemError, RpcError, ConnectionError])
def test_an_error_of_the_cluster_ends_the_run_in_one_line(ray, work, error):
    ray.answer = lambda worker, call, part: error("the head\nis gone")
    with pytest.raises(CareError, match=r"the Ray cluster is gone \(the head\); start it, and run the same"):
        work()


def test_workers_that_die_before_they_are_ready_end_the_run_where_none_works(ray, work):
    ray.answer = lambda worker, call, part: (
        ActorDiedError("killed by the system") if call == "start" else (1, 1)
    )
    with pytest.raises(
        CareError, match="3 workers in a row died before they were ready: killed by the system"
    ):
        work()
    assert ray.made <= 6


def test_workers_that_die_before_they_are_ready_are_done_without_where_another_works(ray, work):
    """One machine of two has too little memory."""
    answer = usual(ray)
    ray.answer = lambda worker, call, part: (
        ActorDiedError("killed by the system")
        if worker > 1 and call == "start"
        else answer(worker, call, part)
    )
    sink = work(parts=40)
    assert set(sink.parts.values()) == {"host:1"}
    assert len(sink.parts) == 40
    assert len(sink.deaths) == 3
    assert [text for text in sink.told if "3 workers in a row died before they were ready" in text]


def test_a_part_that_never_ends_is_ended_with_its_worker_and_set_aside_after_three(ray, work):
    answer = usual(ray)
    ray.answer = lambda worker, call, part: None if part == 2 else answer(worker, call, part)
    sink = work()
    assert set(sink.parts) == {0, 1, 3, 4, 5}
    assert "killed its worker 3 times" in sink.set_aside[2]
    assert len([text for text in sink.told if "took more than 20 s and is ended" in text]) == 3


def test_a_worker_that_never_is_ready_is_ended_and_others_work(ray, work):
    answer = usual(ray)
    ray.answer = lambda worker, call, part: (
        None if (worker, call) == (2, "start") else answer(worker, call, part)
    )
    sink = work(parts=60)
    assert len(sink.parts) == 60
    assert "1 workers to load the model" in " ".join(sink.waited)
    assert "worker 2" not in sink.parts.values()


def test_workers_without_a_place_end_the_run_and_the_wait_is_told(ray, work, sink):
    ray.answer = lambda worker, call, part: None
    said = "no worker has found a place in 50 s: one needs 1 CPU, the cluster has 2"
    with pytest.raises(CareError, match=said):
        work()
    assert ray.time < 60
    assert set(sink.waited) == {"2 workers to be placed"}


def test_nodes_that_come_get_workers_and_lost_ones_are_not_waited_for(ray, work):
    answer = usual(ray)
    ray.cpus = 1

    def now(worker, call, part):
        ray.cpus = 3 if part is not None and part >= 20 else ray.cpus
        ray.time += 0.2
        if worker == 1 and part is not None and part >= 30:
            return ActorDiedError("its node died")
        return answer(worker, call, part)

    ray.answer = now
    sink = work(parts=80)
    assert len(sink.parts) == 80
    assert len(set(sink.parts.values())) >= 3


def test_a_head_that_does_not_answer_is_not_asked_and_is_told(ray, work, monkeypatch):
    def answers():
        return not 1 <= ray.time < 20

    monkeypatch.setattr(ray_engine, "Head", lambda address: SimpleNamespace(answers=answers))
    asked = []
    nodes = ray.nodes
    ray.nodes = lambda: asked.append(ray.time) or nodes()
    answer = usual(ray)
    ray.answer = lambda worker, call, part: (
        None if call == "encode" and ray.time < 30 else answer(worker, call, part)
    )
    sink = work(part_seconds=100.0)
    assert len(sink.parts) == 6
    assert "the head of the cluster, which does not answer" in " ".join(sink.waited)
    assert not [time for time in asked if 1 <= time < 20]
    assert [time for time in asked if time >= 20]
