import gc
import re
import shutil
import socket
import socketserver
import tempfile
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from care_accel import CareError
from care_accel.serving import Server
from care_accel.serving.tritonserver.install import installed
from care_accel.serving.tritonserver.program import find_program
from care_accel.serving.tritonserver.server import first_error, free_ports, still_loading

from ..conftest import REPOSITORY, stub

pytestmark = pytest.mark.usefixtures("require_server")


def test_a_server_says_that_it_is_ready(server):
    assert Server.ready(server)
    assert urllib.request.urlopen(f"http://{server.metrics}/metrics").status == 200


def test_front_ends_have_ports_of_their_own_on_loopback(server):
    addresses = [server.http, server.grpc, server.metrics]
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)


@pytest.mark.parametrize("name", ["query_encoder", "document_encoder", "scan", "search"])
def test_models_use_the_server_s_numpy_and_no_package_that_asks_for_a_newer_one(server, name):
    if not find_program().bundled:
        pytest.skip("a server on PATH works with the environment's numpy")
    modules = set(re.findall(r"(\S+)/[^/\s]+\.so$", stub_maps(server, name), re.MULTILINE))
    numpy = {folder for folder in modules if "/numpy/" in folder}
    assert numpy
    assert all(folder.startswith(f"{installed()}/numpy/") for folder in numpy)
    assert not [
        folder for folder in modules if re.search(r"/(numba|pandas|pyarrow|scipy|sklearn)(/|$)", folder)
    ]


def stub_maps(server, name):
    return Path(f"/proc/{stub(server, name)}/maps").read_text()


def test_free_ports_differ():
    assert len(set(free_ports(20))) == 20


def test_a_port_that_is_taken_is_refused_before_anything_starts():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CareError, match=rf"grpc cannot listen on 127.0.0.1:{port}: .*--grpc-port"):
            Server(REPOSITORY, grpc=port)


def test_a_port_at_which_another_program_speaks_something_else_is_not_ready():
    class Other(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"\0\0\x18\4\0\0\0\0\0\0\4\0@\0\0\n")  # as gRPC begins

    with socketserver.TCPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.handle_request, daemon=True).start()
        host, port = other.server_address
        assert not Server.ready(SimpleNamespace(http=f"{host}:{port}"))


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)
    assert Server.ready(server)


@pytest.mark.parametrize("port", [-1, 0, 70_000])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(CareError, match="http cannot listen on"):
        Server(REPOSITORY, http=port)


def test_two_front_ends_with_one_port_are_refused():
    (port,) = free_ports(1)
    with pytest.raises(CareError, match=f"http cannot listen on port {port}, which another endpoint uses"):
        Server(REPOSITORY, http=port, metrics=port)


def test_a_name_is_listened_on_by_its_address():
    """By a name the server's HTTP front end says that it has started, and answers nobody."""
    assert Server(REPOSITORY, host="localhost").http.startswith("127.0.0.1:")
    with pytest.raises(CareError, match=r"--host nowhere\.invalid: the name has no IPv4 address"):
        Server(REPOSITORY, host="nowhere.invalid")


def test_a_log_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(CareError, match="the log cannot be written: No such file"):
        Server(REPOSITORY, log=tmp_path / "nowhere" / "log").start()


def test_a_temporary_log_is_there_for_who_is_told_to_read_it_and_gone_otherwise(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def start():
        with pytest.raises(CareError) as refused:
            Server(REPOSITORY, arguments=["--dance"]).start()
        return str(refused.value)

    said = start()
    gc.collect()  # the server is gone, as it is when a command line has ended
    (log,) = tmp_path.glob("*/log")
    assert f"(log: {log})" in said
    Server(REPOSITORY).__exit__()
    assert list(tmp_path.iterdir()) == [log.parent]


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(CareError, match=r"http cannot listen on 192\.0\.2\.1"):
        Server(REPOSITORY, host="192.0.2.1")


def test_a_repository_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(CareError, match="no such model repository"):
        Server(tmp_path / "nothing")


def test_a_server_that_cannot_load_a_model_says_why_in_one_line(tmp_path):
    (tmp_path / "r" / "broken" / "1").mkdir(parents=True)
    (tmp_path / "r" / "broken" / "1" / "model.py").write_text("raise RuntimeError('no luck today')\n")
    (tmp_path / "r" / "broken" / "config.pbtxt").write_text('backend: "python"\nmax_batch_size: 1\n')
    with (
        pytest.raises(CareError, match=r"the server did not start: .*no luck today") as refused,
        Server(tmp_path / "r", log=tmp_path / "log"),
    ):
        pass
    assert "\n" not in str(refused.value)


def test_an_argument_that_there_is_not_is_said(tmp_path):
    with (
        pytest.raises(CareError, match="the server did not start"),
        Server(REPOSITORY, arguments=["--dance"], log=tmp_path / "log"),
    ):
        pass


def test_the_first_error_of_a_log_is_our_own_if_there_is_one(tmp_path):
    log = tmp_path / "log"
    log.write_text("I1125 fine\nE1125 failed to load 'scan'\n  care_accel.errors.CareError: the index\n")
    assert first_error(log).startswith("the index (log: ")
    log.write_text("I1125 fine\nE1125 something\n")
    assert first_error(log).startswith("E1125 something")
    harmless = 'E1125 server.cc:241] "CudaDriverHelper has not been initialized."'
    log.write_text(f"I1125 fine\n{harmless}\ntritonserver: a model's process (7) has died\n\n")
    assert first_error(log).startswith("tritonserver: a model's process (7) has died (log: ")
    assert first_error(tmp_path / "none").startswith("it is empty")


def test_where_in_the_code_an_error_was_stays_in_the_log(tmp_path):
    log = tmp_path / "log"
    log.write_text(
        'E1125 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        "E1125 failed to load 'scan' version 1: Internal: no luck\\n\\nAt:\\n  /somewhere.py(1): here\\n\n"
    )
    assert first_error(log) == f"failed to load 'scan' version 1: Internal: no luck (log: {log})"


def test_what_is_still_loading_is_read_from_the_log(tmp_path):
    log = tmp_path / "log"
    log.write_text("")
    assert still_loading(log) == "starting"
    log.write_text('I1 "loading: scan:1"\nI1 "loading: query_encoder:1"\nI1 "successfully loaded \'scan\'"\n')
    assert still_loading(log) == "loading query_encoder"


@pytest.mark.usefixtures("require_server")
def test_a_log_that_an_error_names_is_there(tmp_path):
    (tmp_path / "r").mkdir()
    with pytest.raises(CareError, match=r"\(log: ") as refused, Server(tmp_path / "r", arguments=["--dance"]):
        pass
    log = Path(str(refused.value).rpartition("(log: ")[2].rstrip(")"))
    assert log.is_file()
    shutil.rmtree(log.parent)
    with (
        pytest.raises(CareError, match="the log cannot be written"),
        Server(tmp_path / "r", log=tmp_path / "no" / "log"),
    ):
        pass
