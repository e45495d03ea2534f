"""Interface to the Python backend: tensors, error responses, metrics and the log.

This runs in the stub process that the server starts for each instance of a model, or in the server's own
(`care_accel.serving.tritonserver.in_process`). There alone ``triton_python_backend_utils`` exists, so it is imported where it is
used.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from care_accel.encoding.spec import TASKS, Task
from care_accel.errors import CareError
from care_accel.serving.backend.backlog import Backlog

# Maximum text length. The paper's encoders take 512 tokens, some 2,000 bytes of Chinese; far longer texts are mistakes,
# and tokenising them would delay other requests.
MAX_TEXT_BYTES = 100_000
# Seconds between two metrics updates. Each is a round trip to the server of tens of microseconds, too long for the
# query path.
_REPORT_EVERY_S = 1.0


def read_parameters(model_config: str) -> dict[str, Any]:
    """Return the parameters of a model's configuration; the values are JSON."""
    parameters = json.loads(model_config).get("parameters", {})
    # Capital letters are the server's own, such as FORCE_CPU_ONLY_INPUT_TENSORS.
    return {
        name: json.loads(value["string_value"]) for name, value in parameters.items() if not name.isupper()
    }


def resolve(path: str, model_folder: str) -> Path:
    """Return a path of a configuration: relative ones start at the repository."""
    return Path(model_folder).resolve().parent / path


def reachable(folder: Path) -> bool:
    """Return whether all libraries can open a folder by its path.

    The server's stub always runs Python in the C locale. Python then decodes a path with Chinese characters to
    surrogates, which the libraries that load tokenizers reject.
    """
    return sys.getfilesystemencoding() == "utf-8" or _encoded(folder).isascii()


def in_reach(folder: Path, links: str | Path, *, whole: bool = False) -> Path:
    """Return an ASCII path of a folder, through symbolic links; the path itself if there is no such folder.

    Parameters
    ----------
    folder : Path
    links : str or Path
        An empty folder for the links.
    whole : bool
        Link every file, for libraries that resolve links; else only the folder, so that its replacement is seen.
    """
    name = _encoded(folder)
    if not os.path.isdir(name):
        return folder
    if not whole:
        link = Path(links) / "folder"
        os.symlink(name, os.fsencode(link))
        return link
    for place, _, files in os.walk(name, followlinks=True):
        copy = os.fsencode(links) + place[len(name) :]
        os.makedirs(copy, exist_ok=True)
        for file in files:
            os.symlink(os.path.join(place, file), os.path.join(copy, file))
    return Path(links)


def _encoded(folder: Path) -> bytes:
    return str(folder).encode("utf-8", "surrogateescape")


def read_texts(values: NDArray[Any], *, empty: bool) -> list[str]:
    """Return the texts of a BYTES tensor.

    Parameters
    ----------
    values : numpy.ndarray
        bytes objects ``[n, 1]``.
    empty : bool
        Whether empty texts are allowed.

    Raises
    ------
    CareError
        A text is too long, is not UTF-8, or is empty. The message has its position, but does not quote it.
    """
    texts = []
    for position, raw in enumerate(values.ravel().tolist()):
        if len(raw) > MAX_TEXT_BYTES:
            raise CareError(
                f"TEXT {position} has {len(raw):,} bytes; at most {MAX_TEXT_BYTES:,} are allowed: split it"
            )
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as cause:
            raise CareError(
                f"TEXT {position} is not UTF-8 at byte {cause.start}; encode it as UTF-8"
            ) from None
        if not text and not empty:
            raise CareError(f"TEXT {position} is empty; send a non-empty text")
        texts.append(text)
    return texts


def read_tasks(values: NDArray[Any] | None, count: int) -> list[Task]:
    """Return the prompt task of each text, ``retrieval`` by default.

    Raises
    ------
    CareError
        A task is unknown.
    """
    if values is None:
        return ["retrieval"] * count
    tasks = [raw.decode("utf-8", "replace") for raw in values.ravel()]
    for position, task in enumerate(tasks):
        if task not in TASKS:
            raise CareError(f"TASK {position} is {task[:40]!r}; it must be one of {', '.join(TASKS)}")
    return tasks


class Counter:
    """A number that only grows. Added to by one thread, without a lock: the thread that reports it only reads.

    Parameters
    ----------
    name, help_text : str
    labels : mapping of str to str

    Attributes
    ----------
    total : float
    """

    def __init__(self, name: str, help_text: str, labels: Mapping[str, str]) -> None:
        self.name, self.help_text, self.labels = name, help_text, dict(labels)
        self.total = self._reported = 0.0

    def add(self, amount: float) -> None:
        """Add to the counter."""
        self.total += amount

    def unreported(self) -> float:
        """Return what was added since the last call."""
        total = self.total
        change, self._reported = total - self._reported, total
        return change


class Gauge(NamedTuple):
    """A number that rises and falls; read when it is reported."""

    name: str
    help_text: str
    labels: dict[str, str]
    read: Callable[[], float]


class Backend:
    """The server as a model sees it: tensors, error responses, log and metrics.

    Parameters
    ----------
    arguments : dict of str to str
        Arguments of ``initialize``.
    """

    def __init__(self, arguments: dict[str, str]) -> None:
        import triton_python_backend_utils as server

        self._server = server
        self.name = arguments["model_name"]
        self._counters: list[Counter] = []
        self._gauges: list[Gauge] = []
        self._metrics: dict[str, Any] = {}
        self._refused = self.counter("refused_requests", "Requests refused because too many waited")
        self._ended = threading.Event()
        self._reporter = threading.Thread(target=self._report_often, name="metrics", daemon=True)
        self._reporter.start()
        self.folder = arguments["model_repository"]
        self.device = (
            f"cuda:{arguments['model_instance_device_id']}"
            if arguments["model_instance_kind"] == "GPU"
            else "cpu"
        )
        self.parameters = read_parameters(arguments["model_config"])
        self._links: list[tempfile.TemporaryDirectory[str]] = []
        self._at_end: list[Callable[[], object]] = []
        self._batch = int(json.loads(arguments["model_config"])["max_batch_size"])

    def path(self, value: str | Path, *, whole: bool = False) -> Path:
        """Return a folder of a configuration, as a path that can be opened here (see `in_reach`)."""
        place = resolve(str(value), self.folder)
        if reachable(place):
            return place
        self._links.append(tempfile.TemporaryDirectory(prefix="care-links-"))
        return in_reach(place, self._links[-1].name, whole=whole)

    @staticmethod
    def inputs(request: Any) -> dict[str, Any]:
        """Return the server's tensor of each input of a request; optional ones that were left out are missing."""
        return {tensor.name(): tensor for tensor in request.inputs()}

    def answer(self, **arrays: Any) -> Any:
        """Return a response with outputs; arrays are NumPy's, or of a library that supports DLPack."""
        tensors = [
            self._server.Tensor(name, values)
            if isinstance(values, np.ndarray)
            else self._server.Tensor.from_dlpack(name, values)
            for name, values in arrays.items()
        ]
        return self._server.InferenceResponse(tensors)

    def refusal(self, mistake: CareError) -> Any:
        """Return an INVALID_ARG error response."""
        error = self._server.TritonError
        return self._server.InferenceResponse([], error(" ".join(str(mistake).split()), error.INVALID_ARG))

    def failure(self, why: Exception) -> Any:
        """Return an INTERNAL error response.

        For exceptions other than `CareError` only the type: the message may quote another client's text.
        """
        error = self._server.TritonError
        reason = " ".join(str(why).split()) if isinstance(why, CareError) else type(why).__name__
        return self._server.InferenceResponse([], error(f"the model failed: {reason}", error.INTERNAL))

    def backlog(self) -> Backlog:
        """Return the queue monitor of this model."""
        queue, wait = self.parameters["queue"], self.parameters["wait"]
        in_server = getattr(self._server, "IN_SERVER", False)
        backlog = Backlog(self.name, int(queue), float(wait), max(1, self._batch), in_server=in_server)
        self.at_end(backlog.end)
        return backlog

    def overload(self, why: str, requests: int) -> list[Any]:
        """Return an UNAVAILABLE error response for each request."""
        self._refused.add(requests)
        error = self._server.TritonError
        return [self._server.InferenceResponse([], error(why, error.UNAVAILABLE)) for _ in range(requests)]

    def counter(self, name: str, help_text: str, role: str = "") -> Counter:
        """Return a new counter, ``care_<name>_total`` on the server's metrics page, up to date within a second."""
        labels = {"model": self.name} | ({"role": role} if role else {})
        counter = Counter(f"care_{name}_total", help_text, labels)
        self._counters.append(counter)
        return counter

    def gauge(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show a number, ``care_<name>`` on the server's metrics page, up to date within a second.

        Parameters
        ----------
        name, help_text : str
        read : callable
            Returns the number; called by another thread.
        """
        self._gauges.append(Gauge(f"care_{name}", help_text, {"model": self.name}, read))

    def at_end(self, work: Callable[[], object]) -> None:
        """Have work done when the model ends, or when it cannot be loaded: its process may live on, with its threads."""
        self._at_end.append(work)

    def end(self) -> None:
        """Do what is to be done at the end, report the last metrics and stop the reporting thread."""
        while self._at_end:
            self._at_end.pop()()
        self._ended.set()
        self._reporter.join()
        for links in self._links:
            links.cleanup()

    def _report_often(self) -> None:
        while not self._ended.wait(_REPORT_EVERY_S):
            self._report()
        self._report()

    def _report(self) -> None:
        kinds = self._server.MetricFamily
        for counter in list(self._counters):
            metric = self._metric(counter, kinds.COUNTER)
            if change := counter.unreported():
                metric.increment(change)
        for gauge in list(self._gauges):
            self._metric(gauge, kinds.GAUGE).set(gauge.read())

    def _metric(self, shown: Counter | Gauge, kind: Any) -> Any:
        key = f"{shown.name} {shown.labels}"
        if key not in self._metrics:
            family = self._server.MetricFamily(name=shown.name, description=shown.help_text, kind=kind)
            # Keeps the family alive: its metrics are removed with it.
            self._metrics[key] = family, family.Metric(labels=shown.labels)
        return self._metrics[key][1]

    def log(self, line: str) -> None:
        """Write a line to the server's log. Never a text of a request: those are patients' words."""
        self._server.Logger.log_warn(f"{self.name}: {line}")


def array(inputs: Mapping[str, Any], name: str) -> Any:
    """Return an input in host memory (`Backend.inputs`), None if it was left out."""
    tensor = inputs.get(name)
    return None if tensor is None else tensor.as_numpy()


def required(inputs: Mapping[str, Any], name: str) -> Any:
    """Return the server's tensor of an input.

    Raises
    ------
    CareError
        It was left out. The server does not notice where an optional input was given in its place.
    """
    if name not in inputs:
        raise CareError(f"{name} is missing; it is expected in every request")
    return inputs[name]


def split(values: Sequence[Any] | NDArray[Any], counts: Sequence[int]) -> list[Any]:
    """Split batched results by request."""
    return [values[start:end] for start, end in itertools.pairwise(itertools.accumulate(counts, initial=0))]


def column(counts: Sequence[int]) -> NDArray[np.int32]:
    """Return a number for each text of a request as an output, int32 ``[n, 1]``."""
    return np.array(counts, np.int32).reshape(-1, 1)


def repeated(values: Sequence[float], rows: int) -> NDArray[np.float32]:
    """Return numbers that all texts of a request share as an output, float32 ``[rows, len(values)]``."""
    return np.array([values] * rows, np.float32)
