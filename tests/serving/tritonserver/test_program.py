import os
import stat

import pytest

from care_accel.errors import CareError
from care_accel.serving.tritonserver import launcher, program
from care_accel.serving.tritonserver.program import Program, find_program


@pytest.fixture
def on_path(tmp_path, monkeypatch):
    """Return a function that puts a file named tritonserver first on PATH."""

    def put(content):
        file = tmp_path / "bin" / "tritonserver"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{file.parent}{os.pathsep}{os.environ['PATH']}")
        return file

    return put


def test_a_real_server_on_path_is_preferred(on_path):
    file = on_path(b"\x7fELF")
    found = find_program()
    assert found.binary == file
    assert found.arguments == ()
    assert not found.bundled


def test_the_script_of_this_package_is_never_taken_for_a_server(on_path):
    file = on_path(b"#!/usr/bin/python3\n")
    try:
        assert find_program().binary != file
    except CareError as missing:  # there is no other
        assert "tritonserver" in str(missing)  # noqa: PT017


def test_no_server_is_said_with_what_brings_one(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(program, "installed", lambda: None)
    monkeypatch.setattr(program, "require_python", lambda: None)
    with pytest.raises(CareError, match=r"no tritonserver: .*care-accel serve --install"):
        find_program()


def test_nothing_is_downloaded_where_the_system_s_python_library_is_missing(monkeypatch, capsys):
    def missing(name):
        raise OSError(name)

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(program, "installed", lambda: None)
    monkeypatch.setattr(program, "require_python", lambda: None)
    monkeypatch.setattr(program, "install", lambda say: pytest.fail("it is downloaded"))
    monkeypatch.setattr(program.ctypes, "CDLL", missing)
    assert launcher.main([]) == 2
    assert "install the system package libpython3" in capsys.readouterr().err


def test_the_system_s_python_library_is_asked_for_by_its_package(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(program.ctypes, "CDLL", missing)
    with pytest.raises(CareError, match=r"needs (libpython3\.\d+)\.so\.1\.0: install the system package \1"):
        program._python_library()


def test_the_stub_finds_no_other_python_than_its_own(tmp_path):
    version = f"python{program.sys.version_info.major}.{program.sys.version_info.minor}"
    (tmp_path / "usr" / "lib" / version).mkdir(parents=True)
    (tmp_path / "usr" / "lib" / version / "os.py").touch()
    library = tmp_path / "usr" / "lib" / "x86_64-linux-gnu" / f"lib{version}.so.1.0"
    folders = [tmp_path / "venv" / "bin", tmp_path / "usr" / "bin", tmp_path / "tools"]
    for folder in folders:
        folder.mkdir(parents=True)
    for folder in folders[:2]:
        (folder / "python3").touch()
    kept = program._path_for(library, os.pathsep.join(map(str, folders)))
    assert kept == os.pathsep.join(map(str, folders[1:]))


@pytest.mark.parametrize("path", ["a b", "$(x)", "a;b", "`x`", "a'b", "a&b"])
def test_a_path_that_a_shell_would_read_is_refused(path):
    """The server's Python backend starts each model's process by a line for a shell that holds it as it is."""
    with pytest.raises(CareError, match="does not support a path with"):
        Program(program.Path("/tritonserver")).command([f"--model-repository={path}"])
    with pytest.raises(CareError, match="does not support a path with"):
        Program(program.Path("/tritonserver"), (f"--backend-directory={path}",)).command([])


def test_any_other_path_is_taken():
    given = ["--model-repository=/data/model_repository-1.0+a,b@c:d"]
    assert Program(program.Path("/tritonserver")).command(given)[1:2] == given


def test_the_backends_are_named_by_a_link_where_a_shell_would_misread_their_path(tmp_path):
    plain, odd = tmp_path / "backends", tmp_path / "my env" / "backends"
    odd.mkdir(parents=True)
    assert program._plain(plain) == plain
    for _ in range(2):
        link = program._plain(odd)
        assert program.PLAIN.fullmatch(str(link))
        assert os.path.samefile(link, odd)


def test_a_server_listens_on_loopback_and_keeps_its_apis_to_itself():
    command = Program(program.Path("/tritonserver")).command(["--model-repository=r"])
    assert command[:2] == ["/tritonserver", "--model-repository=r"]
    for name in ("http", "grpc", "metrics"):
        assert f"--{name}-address=127.0.0.1" in command
    (restricted,) = [one for one in command if one.startswith("--grpc-restricted-protocol=")]
    assert restricted.startswith(
        "--grpc-restricted-protocol=model-repository,shared-memory,trace,logging:care-key="
    )


def test_the_key_of_restricted_apis_is_another_each_time():
    first, second = (program.safe_arguments()[-1] for _ in range(2))
    assert first != second
    assert len(first.rsplit("=", 1)[1]) == 32


def test_what_is_given_is_not_overruled():
    given = launcher.joined(["--http-address", "0.0.0.0", "--log-verbose", "1"])
    command = Program(program.Path("/tritonserver"), ("--backend-directory=/b",)).command(given)
    assert [one for one in command if one.startswith("--http-address")] == ["--http-address=0.0.0.0"]
    assert "--log-verbose=1" in command
    assert "--backend-directory=/b" in command


def restrictions(command, option):
    """Return the restricted APIs of a command line as a dict from the key's value to the names."""
    found = [one.removeprefix(f"{option}=") for one in command if one.startswith(f"{option}=")]
    return {value.rsplit("=", 1)[1]: value.partition(":")[0].split(",") for value in found}


@pytest.mark.parametrize(
    ("option", "other"),
    [
        ("--http-restricted-api", "--grpc-restricted-protocol"),
        ("--grpc-restricted-protocol", "--http-restricted-api"),
    ],
)
def test_apis_that_a_user_restricts_have_the_user_s_key_and_the_others_stay_restricted(option, other):
    given = launcher.joined([option, "trace,statistics:key=mine", f"{option}=health:key=yours"])
    command = Program(program.Path("/tritonserver")).command(given)
    found = restrictions(command, option)
    assert found.pop("mine") == ["trace", "statistics"]
    assert found.pop("yours") == ["health"]
    assert list(found.values()) == [["model-repository", "shared-memory", "logging"]]
    everything = ["model-repository", "shared-memory", "trace", "logging"]
    assert list(restrictions(command, other).values()) == [everything]
    all_given = [f"{option}={','.join(everything)}:key=mine"]
    assert restrictions(Program(program.Path("/t")).command(all_given), option) == {"mine": everything}


def test_shared_memory_is_there_if_asked_for():
    assert not any("shared-memory" in one for one in program.safe_arguments(shared_memory=True))


def test_an_option_without_a_value_stays_one():
    assert launcher.joined(["--help", "--model-repository", "a", "-x"]) == [
        "--help",
        "--model-repository=a",
        "-x",
    ]


def test_a_repository_that_a_shell_would_misread_is_named_by_a_link(tmp_path):
    plain, odd = tmp_path / "plain", tmp_path / "it's 仓库 $x"
    plain.mkdir()
    odd.mkdir()
    given = [
        f"--model-repository={plain}",
        f"--model-repository={odd}",
        f"--model-store={odd}/none",
        f"--id={odd}",
    ]
    named = launcher.linked(given, tmp_path)
    assert [named[0], *named[2:]] == [given[0], *given[2:]]
    link = named[1].removeprefix("--model-repository=")
    assert program.PLAIN.fullmatch(link)
    assert os.path.samefile(link, odd)


def test_a_folder_on_path_that_may_not_be_looked_into_is_passed_over(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr(program.Path, "stat", refuse)
    monkeypatch.setattr(program, "installed", lambda: None)
    monkeypatch.setattr(program, "require_python", lambda: None)
    monkeypatch.setenv("PATH", "/locked")
    with pytest.raises(CareError, match="no tritonserver"):
        find_program()
