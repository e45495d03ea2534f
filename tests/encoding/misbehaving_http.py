"""HTTP, as the real server speaks it, in front of `Misbehaving`."""

import contextlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tritonclient.grpc import service_pb2

_STATUSES = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 413,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
}


class Aborted(Exception):
    """What a call of gRPC is ended by."""


class Context:
    """What `Misbehaving` asks of gRPC's context."""

    def __init__(self, server, timeout=0):
        self._server, self._timeout = server, timeout

    def abort(self, status, words):
        raise Aborted(_STATUSES[status.name], words)

    def time_remaining(self):
        return self._timeout / 1e6

    def add_callback(self, callback):
        """An end of the caller is not noticed, as by the real server."""

    def is_active(self):
        return not self._server.stopped.is_set()


class Handler(BaseHTTPRequestHandler):
    """Answers the three paths that the clients use."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        service = self.server.service
        if self.path == "/v2/health/ready":
            self.answer(200 if service.ServerReady(None, None).ready else 400)
            return
        context, model = Context(self.server), self.path.split("/")[3]
        try:
            config = service.ModelConfig(service_pb2.ModelConfigRequest(name=model), context).config
        except Aborted as refused:
            self.refuse(*refused.args)
            return
        parameters = {name: {"string_value": value.string_value} for name, value in config.parameters.items()}
        said = {"name": config.name, "max_batch_size": config.max_batch_size, "parameters": parameters}
        self.answer(200, json.dumps(said).encode())

    def do_POST(self):
        head_length = int(self.headers["Inference-Header-Content-Length"])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head, place = json.loads(body[:head_length]), head_length
        request = service_pb2.ModelInferRequest(model_name=self.path.split("/")[3])
        request.parameters["timeout"].int64_param = head["parameters"]["timeout"]
        for one in head["inputs"]:
            request.inputs.add(name=one["name"], datatype=one["datatype"], shape=one["shape"])
            size = one["parameters"]["binary_data_size"]
            request.raw_input_contents.append(body[place : place + size])
            place += size
        assert place == len(body)
        try:
            context = Context(self.server, head["parameters"]["timeout"])
            made = self.server.service.ModelInfer(request, context)
        except Aborted as refused:
            self.refuse(*refused.args)
            return
        outputs = [
            {
                "name": one.name, "datatype": one.datatype, "shape": list(one.shape),
                "parameters": {"binary_data_size": len(raw)},
            }
            for one, raw in zip(made.outputs, made.raw_output_contents, strict=True)
        ]  # fmt: skip
        head = json.dumps({"model_name": made.model_name, "outputs": outputs}).encode()
        self.answer(200, head + b"".join(made.raw_output_contents), len(head))

    def refuse(self, status, words):
        self.answer(status, json.dumps({"error": words}).encode())

    def answer(self, status, body=b"", head_length=None):
        self.send_response_only(status)
        if head_length is not None:
            self.send_header("Inference-Header-Content-Length", str(head_length))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """A server that closes its connections when it stops, as a process that ends does."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, service, port):
        self.service, self.stopped, self.open = service, threading.Event(), set()
        service.front = self
        super().__init__(("127.0.0.1", port), Handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def handle_error(self, request, client_address):
        """A caller that has gone is no error."""

    def get_request(self):
        connection, address = super().get_request()
        self.open.add(connection)
        return connection, address

    def stop(self, grace):
        if not self.stopped.is_set():
            self.stopped.set()
            self.shutdown()
            self.server_close()
            self.hang_up()
            self.thread.join()
        return self

    def hang_up(self):
        """Close the connections."""
        for connection in self.open:
            with contextlib.suppress(OSError):  # it has ended before
                connection.shutdown(socket.SHUT_RDWR)

    def wait(self):
        """It has stopped."""


def start(service, port=0):
    """Start a server and return it with its address."""
    server = Server(service, port)
    return server, f"http://127.0.0.1:{server.server_address[1]}"
