"""Stands for the server's Python backend, so that a model runs in the process of a test."""

import json
from types import ModuleType, SimpleNamespace

import numpy as np

_CODES = {"INVALID_ARG": 3, "INTERNAL": 13, "UNAVAILABLE": 14}


class Tensor:
    """A tensor in host memory."""

    def __init__(self, name, values):
        self._name, self._values = name, np.ascontiguousarray(values)

    def name(self):
        return self._name

    def as_numpy(self):
        return self._values

    def is_cpu(self):
        return True


class Error:
    """An error with its status."""

    INVALID_ARG, INTERNAL, UNAVAILABLE = _CODES

    def __init__(self, message, status):
        self.status, self.message = status, message


class Response:
    """What a model answers to a request."""

    def __init__(self, tensors, error=None):
        self._tensors, self.error = tensors, error and (error.status, error.message)

    def arrays(self):
        """Return the outputs by name."""
        assert self.error is None, self.error
        return {tensor.name(): tensor.as_numpy() for tensor in self._tensors}


class _Family:
    COUNTER, GAUGE = "counter", "gauge"

    def __init__(self, name, description, kind):
        self._name = name

    def Metric(self, labels):
        key = self._name, labels["model"], labels.get("role", "")
        self.page[key] = 0.0

        def increment(amount):
            self.page[key] += amount

        def set_to(value):
            self.page[key] = value

        return SimpleNamespace(increment=increment, set=set_to)


class PythonBackend(ModuleType):
    """The module that the server gives its models.

    Attributes
    ----------
    metrics : dict
        What the metrics page would show: numbers by name, model and role.
    logged : list of str
    """

    def __init__(self):
        super().__init__("triton_python_backend_utils")
        self.Tensor, self.TritonError, self.InferenceResponse = Tensor, Error, Response
        self.metrics, self.logged = {}, []
        self.MetricFamily = type("Family", (_Family,), {"page": self.metrics})
        self.Logger = SimpleNamespace(log_warn=self.logged.append)

    @staticmethod
    def request(**arrays):
        """Return a request with some inputs."""
        tensors = [Tensor(name, values) for name, values in arrays.items()]
        return SimpleNamespace(inputs=lambda: tensors, is_cancelled=lambda: False)

    @staticmethod
    def arguments(name, parameters, batch=64):
        """Return the arguments of ``initialize`` of a model with some parameters."""
        values = {key: {"string_value": json.dumps(value)} for key, value in parameters.items()}
        return {
            "model_name": name,
            "model_repository": f"/nowhere/{name}",
            "model_version": "1",
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_config": json.dumps({"max_batch_size": batch, "parameters": values}),
        }
