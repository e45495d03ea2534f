"""Installing the server, by the real pip from a folder of tiny wheels."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile

import pytest

from care_accel.cli import main
from care_accel.errors import CareError
from care_accel.serving.repository.config import model_file
from care_accel.serving.tritonserver import install as module
from care_accel.serving.tritonserver.install import install, installed, server_home
from care_accel.serving.tritonserver.program import SITE

BACKEND = "pytriton/tritonserver/backends/python"
STUBS = f"pytriton/tritonserver/python_backend_stubs/{module._VERSION}"
WHEELS = {
    ("nvidia_pytriton", "0.7.0"): {f"{STUBS}/{module.STUB}": "stub", f"{BACKEND}/utils.py": ""},
    ("numpy", "1.26.4"): {"numpy/__init__.py": ""},
}


def write_wheel(folder, name, version, files):
    """Write a wheel and return its hash."""
    information = f"{name}-{version}.dist-info"
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    more = {
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{information}/RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for place, content in {**files, **more}.items():
            archive.writestr(place, content)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """Return a folder of wheels, all that pip sees; the environment is an empty folder next to it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    hashes = {key: write_wheel(folder, *key, files) for key, files in WHEELS.items()}
    requirements = tmp_path / "tritonserver.txt"
    requirements.write_text(
        "".join(
            f"{name.replace('_', '-')}=={version} --hash=sha256:{digest}\n"
            for (name, version), digest in hashes.items()
        )
    )
    monkeypatch.setattr(module, "REQUIREMENTS", requirements)
    monkeypatch.setattr(module, "_LAST_PYTHON", module.sys.version_info[:2])
    monkeypatch.setattr(module.sysconfig, "get_path", lambda name: str(tmp_path / "environment"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_server_and_its_numpy_are_installed_once_in_the_environment(wheels, tmp_path, capfd):
    assert installed() is None
    assert main(["serve", "--install"]) == 0
    place = installed()
    assert place.is_relative_to(tmp_path / "environment" / "share" / "care-accel")
    assert (place / "numpy" / "__init__.py").is_file()
    assert (server_home(place) / "backends" / "python" / module.STUB).read_text() == "stub"
    assert "installing nvidia-pytriton 0.7.0 and numpy 1.26.4 into" in capfd.readouterr().err
    assert os.listdir(place.parent) == [place.name]
    shutil.rmtree(wheels)  # an index is not asked again
    assert main(["serve", "--install"]) == 0
    said = capfd.readouterr().err
    assert str(place) in said
    assert "installing" not in said


def test_a_model_finds_the_server_s_numpy_first_and_no_package_that_may_need_another(wheels, tmp_path):
    system = tmp_path / "system"
    for name in ("numpy", "pandas"):
        (system / name).mkdir(parents=True)
        (system / name / "__init__.py").touch()
    *lines, _ = model_file("scan_model", "ScanModel").splitlines()
    code = [
        *("import importlib.util, sys", f"sys.path.insert(0, {str(system)!r})"),
        *lines,
        "import numpy; print(numpy.__file__, importlib.util.find_spec('pandas'))",
    ]
    place = install(lambda line: None)
    environment = os.environ | {SITE: os.pathsep.join([str(place), str(system)])}
    command = [sys.executable, "-c", "\n".join(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(place / "numpy" / "__init__.py"), "None"]


def test_constraints_of_a_user_do_not_apply_to_the_server_s_folder(wheels, tmp_path, monkeypatch):
    (tmp_path / "constraints.txt").write_text("numpy>=2\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    monkeypatch.setenv("PIP_USER", "1")
    assert (install(lambda line: None) / "numpy").is_dir()


def test_the_cache_holds_what_an_environment_that_cannot_be_written_does_not(wheels, tmp_path):
    (tmp_path / "environment").touch()  # no folder: nothing can be made in it, for root as for anybody
    assert install(lambda line: None).is_relative_to(tmp_path / "cache" / "care_accel")
    assert installed().is_relative_to(tmp_path / "cache")


def test_two_at_once_are_no_trouble(wheels):
    begun, places = threading.Barrier(2), []

    def work():
        begun.wait()
        places.append(install(lambda line: None))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert places == [installed()] * 2
    assert os.listdir(places[0].parent) == [places[0].name]


def test_what_is_not_in_reach_is_said_in_one_line_and_nothing_stays(wheels, tmp_path, capfd):
    shutil.rmtree(wheels)
    wheels.mkdir()
    assert main(["serve", "--install"]) == 2
    *_, line = capfd.readouterr().err.strip().splitlines()
    assert line.startswith("error: the server could not be installed; pip says: ")
    assert "nvidia-pytriton==0.7.0" in line
    assert line.endswith("then run care-accel serve --install")
    assert installed() is None
    assert not any((tmp_path / "environment" / "share" / "care-accel").iterdir())


def test_a_wheel_of_another_content_is_refused(wheels):
    write_wheel(wheels, "numpy", "1.26.4", {"numpy/__init__.py": "another"})
    with pytest.raises(CareError, match=r"pip says: .*HASHES"):
        install(lambda line: None)
    assert installed() is None


def test_a_python_beyond_numpy_1_is_refused_before_anything_is_downloaded(wheels, monkeypatch):
    monkeypatch.setattr(module, "_LAST_PYTHON", (3, 10))
    with pytest.raises(CareError, match="needs numpy 1, which supports Python up to 3"):
        install(lambda line: pytest.fail(line))


def test_an_environment_without_pip_is_told_how_to_get_it(wheels, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(CareError, match="-m ensurepip"):
        install(lambda line: None)
