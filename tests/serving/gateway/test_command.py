"""``care-accel gateway`` as a process: what it refuses to start with, what it says, how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx2
import pytest

from care_accel.cli import main
from care_accel.serving.gateway.settings import TOKEN_VARIABLE

TOKEN = "0123456789abcdef-command"

# The command as it is, with a server in memory in the place of the client of a real one.
SLOW = """
import asyncio, sys
from types import SimpleNamespace
import numpy as np
from care_accel.cli import main
from care_accel.encoding.runtimes import server
from care_accel.encoding.spec import EncoderSpec

class Slow:
    def __init__(self, address, **options): pass
    async def ready(self): return True
    async def describe(self, role, *, refresh=False):
        spec = EncoderSpec(pooling="first", order="normalize-then-slice", width=2)
        return SimpleNamespace(name="slow", width=2, spec=spec, revision="r", role=role)
    async def encode(self, role, texts, task="retrieval"):
        print("working", flush=True)
        await asyncio.sleep(1.0)
        return SimpleNamespace(vectors=np.ones((len(texts), 2), np.float32), tokens=np.ones(len(texts), np.int32))
    async def close(self): print("closed", flush=True)

server.AsyncServerClient = Slow
sys.exit(main(["gateway", "--port", "0", *sys.argv[1:]]))
"""


@pytest.fixture
def start():
    """Return a function that starts a process and reads what it prints."""
    processes = []

    def start_(*arguments, command=("-c", SLOW), **environment):
        process = subprocess.Popen(
            [sys.executable, *command, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**{k: v for k, v in os.environ.items() if k != TOKEN_VARIABLE}, **environment},
        )
        processes.append(process)
        lines = [process.stdout.readline() for _ in range(3)]
        assert lines[2].startswith("try: "), (lines, process.stderr.read())
        return process, re.search(r"http://\S+:\d+", lines[0])[0], lines

    yield start_
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_beyond_loopback_a_token_is_required(host, capsys, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert main(["gateway", "--host", host, "--port", "0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "no token is set" in lines[0]
    assert TOKEN_VARIABLE in lines[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "no such name"], "cannot be resolved"),
        (["--host", ""], "cannot be resolved"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--server", "http://localhost"], "address of an inference server"),
        (["--rate", "-1"], "rate"),
        (["--concurrency", "0"], "concurrency"),
        (["--token-file", "/absent"], "cannot be read"),
        (["--collection", "/absent"], "no such folder"),
        (["--writable"], "--writable needs --collection"),
        (["--writable", "--collection", "/absent"], "a token of its own for writing"),
        (["--write-token-file", "/absent"], "--write-token-file needs --writable"),
        (["--writable", "--collection", "x", "--write-token-file", "/absent"], "--write-token-file /absent"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_code_2(arguments, words, capsys):
    assert main(["gateway", "--port", "0", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_port_that_is_taken_is_named(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["gateway", "--port", port]) == 2
    assert f"--port {port}: cannot listen there" in capsys.readouterr().err


def test_a_terminated_gateway_finishes_what_it_has_begun(start):
    process, address, _ = start()
    answers = []

    def post():
        fields = {"model": "slow", "input": "a"}
        answers.append(httpx2.post(f"{address}/v1/embeddings", json=fields, timeout=20))

    asking = threading.Thread(target=post)
    asking.start()
    while process.stdout.readline() != "working\n":
        pass
    process.send_signal(signal.SIGTERM)
    asking.join(20)
    assert [answer.status_code for answer in answers] == [200]
    assert process.wait(20) == 0
    assert process.stdout.read() == "closed\n"
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{address}/healthz")


def test_the_process_logs_requests_without_what_stands_in_addresses(start):
    process, address, lines = start(**{TOKEN_VARIABLE: TOKEN})
    assert httpx2.get(f"{address}/v1/models?q=headache").status_code == 401
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "mine"}
    assert httpx2.get(f"{address}/v1/models?q=headache", headers=headers).status_code == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert "id=mine GET /v1/models 200" in err
    assert "caller=token1@127.0.0.1" in err
    assert "headache" not in out + err
    assert TOKEN not in out + err + "".join(lines)
    assert TOKEN_VARIABLE in lines[2], "the line to try it names the variable"


def test_a_proxy_tells_who_calls_only_if_it_is_trusted(start):
    for arguments, caller in (((), "127.0.0.1"), (("--trusted-proxy", "127.0.0.1"), "192.0.2.7")):
        process, address, _ = start(*arguments)
        headers = {"X-Forwarded-For": "192.0.2.7", "X-Request-ID": "mine"}
        assert httpx2.get(f"{address}/healthz", headers=headers).status_code == 200
        process.terminate()
        assert f"caller={caller} " in process.communicate(timeout=20)[1]


def test_a_name_that_is_allowed_is_answered(start):
    _, address, _ = start("--allow-host", "Care.Example")
    assert httpx2.get(f"{address}/v1/models", headers={"Host": "care.example"}).status_code == 200
    assert httpx2.get(f"{address}/v1/models", headers={"Host": "other.example"}).status_code == 400


def test_it_starts_before_the_inference_server_and_says_that_it_waits(start):
    _, address, _ = start(command=("-m", "care_accel", "gateway", "--port", "0", "--server", "127.0.0.1:9"))
    assert httpx2.get(f"{address}/healthz").status_code == 200
    assert httpx2.get(f"{address}/readyz").status_code == 503
    answer = httpx2.post(f"{address}/v1/search", json={"query": "a"}, timeout=20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_unavailable")


def test_the_line_to_try_reads_the_token_where_it_is(start, tmp_path):
    file = tmp_path / "the token"
    file.write_text(f"{TOKEN}\n")
    _, _, lines = start("--token-file", str(file))
    assert f"Bearer $(head -n 1 '{file}')\"" in lines[2]
    _, _, lines = start(**{TOKEN_VARIABLE: TOKEN})
    assert f'Bearer ${TOKEN_VARIABLE}"' in lines[2]
    assert TOKEN not in "".join(lines)
