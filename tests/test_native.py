"""The native code under the compiler's sanitizers, which see what a result does not show."""

import subprocess
import sys
from pathlib import Path

import cmake
import ninja
import pybind11
import pytest

ROOT = Path(__file__).parents[1]
CMAKE = Path(cmake.CMAKE_BIN_DIR) / "cmake"
NINJA = Path(ninja.BIN_DIR) / "ninja"


@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_scan_is_clean_under_the_sanitizer(sanitizer, tmp_path):
    configure = [
        CMAKE,
        "-S", ROOT,
        "-B", tmp_path,
        "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={NINJA}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        f"-DCARE_SANITIZE={sanitizer}",
        "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON",
    ]  # fmt: skip
    for command in (configure, [CMAKE, "--build", tmp_path, "--target", "scan_check"]):
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    ran = subprocess.run([tmp_path / "scan_check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert ran.stdout.endswith(" checks, 0 failures\n")
    assert not ran.stdout.startswith("0 ")
