"""The commands as a user starts them: processes with arguments, signals and exit codes."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from care_accel import CareError, Retriever
from care_accel.cli import main
from care_accel.serving import write_repository
from care_accel.serving.repository.config import read_config
from care_accel.serving.tritonserver.program import Program
from care_accel.serving.tritonserver.server import free_ports

from .conftest import REPOSITORY, children

SCRIPTS = Path(sys.executable).parent


def serve(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "care_accel", "serve", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )


@pytest.fixture
def ports():
    http, grpc, metrics = free_ports(3)
    return ["--port", http, "--grpc-port", grpc, "--metrics-port", metrics]


@pytest.mark.usefixtures("require_server")
def test_serve_prints_a_line_for_curl_that_works_and_ends_at_a_signal(tmp_path, model, ports):
    documents = ["高血压要低盐饮食", "骨折后要固定", "发热要多喝水"]
    odd = tmp_path / '医院\'s "files" $x'
    model.save_pretrained(odd / "模型")
    Retriever.from_documents(model, documents).save(odd / "索引")
    write_repository(odd / "仓库", odd / "模型", index=odd / "索引")
    for name in ("query_encoder", "document_encoder", "scan"):  # which are not asked
        shutil.rmtree(odd / "仓库" / name)
    process = serve("--repository", odd / "仓库", *ports)
    try:
        ready = process.stdout.readline()
        assert f"http://127.0.0.1:{ports[1]}" in ready
        line = process.stdout.readline()
        done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True)
        outputs = {one["name"]: one["data"] for one in json.loads(done.stdout)["outputs"]}
        expected = Retriever.from_documents(model, documents).search("血压高怎么办")
        assert [json.loads(raw) for raw in outputs["DOCUMENTS"][:3]] == [hit.document for hit in expected]
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.endswith("stopped (exit code 0)\n")
    assert "for development" in said


@pytest.mark.usefixtures("require_server")
def test_serve_ends_at_once_when_it_is_told_so_while_it_starts(ports):
    process = serve("--repository", REPOSITORY, *ports)
    process.stderr.readline()
    time.sleep(1)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.usefixtures("require_server")
def test_a_serve_that_is_killed_leaves_no_server_behind(ports, tmp_path):
    # Its temporary folder stays, as nothing can remove that.
    process = serve("--repository", REPOSITORY, *ports, "--log", tmp_path / "log", TMPDIR=str(tmp_path))
    try:
        end = time.monotonic() + 60
        while not (servers := below(process.pid, 2)) and time.monotonic() < end:
            time.sleep(0.05)
        assert servers
        (supervisor,) = children(process.pid)
    finally:
        process.kill()
        process.communicate()
    left = {supervisor, *servers}
    end = time.monotonic() + 60
    while left and time.monotonic() < end:
        time.sleep(0.05)
        left = {pid for pid in left if Path(f"/proc/{pid}").exists()}
    assert left == set()


def below(pid, depth):
    """Return the processes that the children of a process, and so on, have started."""
    found = {pid}
    for _ in range(depth):
        found = {child for one in found for child in children(one)}
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repository", "nowhere"], "nowhere: no such model repository"),
        (["--repository", "a", "--model", "b"], "not both"),
        (
            ["--repository", REPOSITORY, "--several-tenants"],
            "give --repository or --several-tenants, not both",
        ),
        (["--repository", REPOSITORY, "--gpu"], "give --repository or --gpu, not both"),
        (["--repository", REPOSITORY, "--in-process"], "give --repository or --in-process, not both"),
        (["--in-process", "--gpu"], "search runs in the server's process on the CPU only"),
        (["--model", "nowhere"], "nowhere"),
        (["--index", "nowhere"], "nowhere"),
    ],
)
def test_serve_refuses_in_one_line(arguments, message, ports, monkeypatch, capsys):
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # of this process, they stay
    assert main(["serve", *map(str, [*arguments, *ports])]) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("error: ")
    assert message in said


@pytest.mark.parametrize(
    ("arguments", "backends", "said"),
    [
        ([], "backends", "care"),
        (["--in-process"], "backends", "care"),
        (["--no-in-process"], "backends", "python"),
        ([], None, "python"),
        (["--in-process"], None, "leave out --in-process"),
    ],
)
def test_serve_has_search_run_in_the_server_s_process_where_it_can(
    arguments, backends, said, tmp_path, monkeypatch, capsys
):
    def find_program(**_):
        return Program(Path("/tritonserver"), backends=backends and tmp_path)

    def start(repository, **_):
        raise CareError(f"backend {read_config(repository / 'search' / 'config.pbtxt').backend}")

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("care_accel.serving.tritonserver.program.find_program", find_program)
    monkeypatch.setattr("care_accel.serving.tritonserver.server.Server", start)
    (tmp_path / "libtriton_care.so").touch()
    monkeypatch.setattr("care_accel.serving.tritonserver.in_process._LIBRARY", tmp_path / "libtriton_care.so")
    assert main(["serve", *arguments]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert ("--no-in-process gives it one beside it" in printed) == (said == "care" and not arguments)


@pytest.mark.usefixtures("require_server")
def test_the_script_tritonserver_serves_the_committed_repository_in_an_activated_environment():
    script = SCRIPTS / "tritonserver"
    if not script.exists():
        pytest.skip("the package is not installed, so that it has no scripts")
    http, grpc, metrics = free_ports(3)
    process = subprocess.Popen(
        [
            script,
            "--model-repository",
            "model_repository",
            # One of its models: the shared server has them all.
            "--model-control-mode=explicit",
            "--load-model=query_encoder",
            f"--http-port={http}",
            f"--grpc-port={grpc}",
            f"--metrics-port={metrics}",
        ],
        cwd=REPOSITORY.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"},
    )
    assert "for development" in process.stdout.readline()
    said = []
    for line in process.stdout:
        said.append(line)
        if "Started Metrics Service" in line:
            break
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 0, "".join(said[-400:])


@pytest.mark.usefixtures("require_server")
def test_the_server_s_own_exit_code_and_words_are_handed_on(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "care_accel.serving.tritonserver.launcher",
            f"--model-repository={tmp_path / 'nothing'}",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "failed to stat" in done.stderr
