"""Inference servers of shards in this process: the real model and client, and the protocol over gRPC, without tritonserver."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import (
    deserialize_bytes_tensor,
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from care_accel.cluster.servers.repository import write_shard_repository
from care_accel.cluster.servers.shard_model import ShardModel
from care_accel.serving.backend.tensors import read_parameters
from care_accel.serving.repository.config import read_config

sys.path.insert(0, str(Path(__file__).parents[2] / "serving"))
from python_backend import PythonBackend


class LocalServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server of a shard.

    Attributes
    ----------
    address : str
    down, overloaded : bool
        What it answers to every request.
    slow : float
        Seconds that a search takes longer.
    asked : list of str
        Models of the requests so far.
    """

    def __init__(self, repository, encoder, shard):
        backend = sys.modules["triton_python_backend_utils"]
        self._configs = {one.parent.name: read_config(one) for one in repository.glob("*/config.pbtxt")}
        care = self._configs["scan"].parameters["care"]
        care.string_value = json.dumps(json.loads(care.string_value) | {"shard": shard})
        values = {
            name: {"string_value": one.string_value} for name, one in self._configs["scan"].parameters.items()
        }
        parameters = read_parameters(json.dumps({"parameters": values}))
        self.model = ShardModel()
        self.model.initialize(backend.arguments("scan", parameters))
        self._backend, self._encoder = backend, encoder
        self.down = self.overloaded = False
        self.slow, self.asked = 0.0, []
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self):
        self._server.stop(None).wait()
        self.model.finalize()

    def _check(self, context):
        if self.down:
            context.abort(grpc.StatusCode.UNAVAILABLE, "it is gone")
        if self.overloaded:
            context.abort(grpc.StatusCode.UNAVAILABLE, "900 requests wait, and the limit is 512")

    def ModelConfig(self, request, context):
        self._check(context)
        return messages.ModelConfigResponse(config=self._configs[request.name])

    def ModelInfer(self, request, context):
        self._check(context)
        self.asked.append(request.model_name)
        inputs = {
            tensor.name: _array(tensor, raw)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        if request.model_name == "scan":
            if "EMBEDDING" in inputs:
                time.sleep(self.slow)
            (response,) = self.model.execute([self._backend.request(**inputs)])
            if response.error is not None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, response.error[1])
            return _response(response.arrays())
        texts = [raw.decode() for raw in inputs["TEXT"].ravel()]
        role = request.model_name.removesuffix("_encoder")
        vectors = self._encoder.encoder(role).encode(texts)
        tokens = np.array([[len(text)] for text in texts], np.int32)
        return _response(
            {"EMBEDDING": vectors, "TOKENS": tokens, "TIMES": np.ones((len(texts), 2), np.float32)}
        )


def _array(tensor, raw):
    if tensor.datatype == "BYTES":
        return deserialize_bytes_tensor(raw).reshape(tuple(tensor.shape))
    return np.frombuffer(raw, triton_to_np_dtype(tensor.datatype)).reshape(tuple(tensor.shape))


def _response(outputs):
    response = messages.ModelInferResponse()
    for name, values in outputs.items():
        response.outputs.add(name=name, datatype=np_to_triton_dtype(values.dtype), shape=values.shape)
        raw = serialize_byte_tensor(values).item() if values.dtype == np.object_ else values.tobytes()
        response.raw_output_contents.append(raw)
    return response


def start(folder, uri, encoder, number, of):
    """Start the server of a shard; the repository of a collection is written to a folder once, as it takes time."""
    sys.modules.setdefault("triton_python_backend_utils", PythonBackend())
    repository = folder / Path(uri).name
    if not repository.exists():
        write_shard_repository(repository, uri, (number, of), "care-mini")
    return LocalServer(repository, encoder, [number, of])
