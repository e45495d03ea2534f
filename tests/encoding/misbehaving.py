"""A small gRPC server that answers as a served model does, or misbehaves as it is told."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from care_accel.encoding import EncoderSpec

WIDTH = 3
SPEC = EncoderSpec(pooling="first", order="normalize-then-slice", width=WIDTH)


def vector(text):
    """Return what this server takes for the vector of a text."""
    return [len(text), ord(text[0]) if text else 0, sum(map(ord, text)) % 1000]


class Misbehaving(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers every model at once.

    Attributes
    ----------
    errors : list
        gRPC statuses, or a status and words, of the next inferences, the first one first.
    slow : float
        Seconds before an answer.
    asked : list of dict
        What each inference brought: model, inputs by name, request timeout, seconds until its deadline.
    change : callable
        Takes and returns the outputs by name before they are sent.
    care : str, optional
        What every model says of itself, instead of the truth.
    changes : dict
        By model, what else it says of itself.
    silent : set of str
        Models that say nothing of themselves, as ensembles.
    """

    def __init__(self):
        self.errors, self.asked, self.slow = [], [], 0.0
        self.change = lambda outputs: outputs
        self.revision = "sha256:one"
        self.missing = set()
        self.care, self.changes, self.silent = None, {}, set()
        self.busy = self.most_busy = 0
        self.cancelled = threading.Event()
        self._lock = threading.Lock()

    def ServerReady(self, request, context):
        return service_pb2.ServerReadyResponse(ready=True)

    def ModelConfig(self, request, context):
        if request.name in self.missing:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}'")
        answer = service_pb2.ModelConfigResponse()
        answer.config.name, answer.config.max_batch_size = request.name, 4
        role = request.name.removesuffix("_encoder")
        care = {
            "name": "care-test", "role": role, "width": WIDTH, "revision": self.revision,
            "fingerprint": "sha256:f", "spec": SPEC.to_dict(), "symmetric": False, "k": 10, "most_k": 1000,
        }  # fmt: skip
        care |= self.changes.get(request.name, {})
        if request.name not in self.silent:
            said = json.dumps(care) if self.care is None else self.care
            answer.config.parameters["care"].string_value = said
        return answer

    def ModelInfer(self, request, context):
        inputs = self._read(request)
        with self._lock:
            self.asked.append(
                {
                    "model": request.model_name,
                    "inputs": inputs,
                    "timeout": request.parameters["timeout"].int64_param,
                    "left": context.time_remaining(),
                }
            )
            error = self.errors.pop(0) if self.errors else None
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        context.add_callback(lambda: None if context.code() else self.cancelled.set())
        try:
            end = time.monotonic() + self.slow
            while time.monotonic() < end and context.is_active():
                time.sleep(0.005)
        finally:
            with self._lock:
                self.busy -= 1
        if error is not None:
            status, words = error if isinstance(error, tuple) else (error, "as told")
            context.abort(status, words)
        return self._answer(request.model_name, inputs)

    @staticmethod
    def _read(request):
        return {
            one.name: [value.decode() for value in deserialize_bytes_tensor(raw)]
            if one.datatype == "BYTES"
            else np.frombuffer(raw, np.int32).tolist()
            for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }

    def _answer(self, model, inputs):
        texts = inputs["TEXT"]
        vectors = np.array([vector(text) for text in texts], np.float32).reshape(len(texts), WIDTH)
        sizes = np.array([[len(text)] for text in texts], np.int32)
        # Every request a batch of its own, whose size its times tell.
        times = np.full((len(texts), 3 if model == "search" else 2), len(texts), np.float32)
        outputs = {"EMBEDDING": vectors}
        if model == "search":
            k = inputs["K"][0]
            outputs = {
                "IDS": np.tile(np.r_[np.arange(k - 1), -1], (len(texts), 1)),
                "SCORES": np.tile(vectors[:, :1], (1, k)),
                "DOCUMENTS": np.array([[json.dumps({"of": t}).encode()] * k for t in texts], np.object_),
            }
        outputs |= {"TOKENS": sizes, "TIMES": times}
        answer = service_pb2.ModelInferResponse(model_name=model)
        names = {"float32": "FP32", "int32": "INT32", "int64": "INT64", "object": "BYTES"}
        for name, values in self.change(outputs).items():
            raw = serialize_byte_tensor(values).item() if values.dtype == object else values.tobytes()
            answer.outputs.add(name=name, datatype=names[str(values.dtype)], shape=values.shape)
            answer.raw_output_contents.append(raw)
        return answer


def start(service, port=0):
    """Start a server and return it with its address."""
    server = grpc.server(ThreadPoolExecutor(16))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return server, f"127.0.0.1:{bound}"
