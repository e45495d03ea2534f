"""The native code under the compiler's sanitizers, and the CUDA parts where there is no GPU."""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cmake
import ninja
import pybind11
import pytest

from care_accel import _native

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.compiler
CMAKE = Path(cmake.CMAKE_BIN_DIR) / "cmake"
NINJA = Path(ninja.BIN_DIR) / "ninja"


def configure(folder, *options, **environment):
    command = [
        CMAKE,
        "-S", ROOT,
        "-B", folder,
        "-G", "Ninja",
        f"-DCMAKE_MAKE_PROGRAM={NINJA}",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON",
        *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)


def build(folder, *targets):
    built = subprocess.run(
        [CMAKE, "--build", folder, "--target", *targets], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    """Return a function that gives the build folder of sanitizers; its programs share objects."""
    # To compile takes longest: headers are read once for each program, kernels that this processor cannot run are left out,
    # and nothing is optimized that makes the checks of every access more.
    quickly = ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=0", "-DCARE_OPTIMIZATION=-Og")
    sets = [name for name in _native.instruction_sets() if name != "portable"]

    @functools.cache
    def configured(sanitizers):
        folder = tmp_path_factory.mktemp("sanitized")
        # Threads share their work in the same way whatever the kernels: of these the best are enough, beside the portable ones.
        some = ";".join(sets[:1] if sanitizers == "thread" else sets)
        done = configure(folder, f"-DCARE_SANITIZE={sanitizers}", f"-DCARE_INSTRUCTION_SETS={some}", *quickly)
        assert done.returncode == 0, done.stderr
        return folder

    return configured


@pytest.mark.parametrize(
    ("sanitizers", "program"),
    [
        ("address,undefined", "scan_check"),
        ("address,undefined", "encoder_check"),
        ("address,undefined", "threads_check"),
        # The kernels of csrc/cuda on an emulated GPU: tests/native/emulated_gpu.hpp.
        ("address,undefined", "cuda_check"),
        ("thread", "scan_check"),
        ("thread", "encoder_check"),
        ("thread", "threads_check"),
    ],
)
def test_the_native_code_is_clean_under_the_sanitizer(sanitized, sanitizers, program):
    folder = sanitized(sanitizers)
    build(folder, program)
    ran = subprocess.run([folder / program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    last = ran.stdout.splitlines()[-1]
    assert last.endswith(" checks, 0 failures")
    assert not last.startswith("0 ")


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_the_cuda_parts_compile_without_a_warning(tmp_path):
    # The rest of the C++ code does not know of CUDA, and is built with all optimization for every environment and wheel. Of
    # the bindings only warnings are wanted, no objects.
    configured = configure(tmp_path, "-DCARE_CUDA=ON", "-DCARE_OPTIMIZATION=-fsyntax-only")
    assert configured.returncode == 0, configured.stderr
    build(tmp_path, "care_cuda", "CMakeFiles/_native.dir/csrc/bindings/module.cpp.o")


def test_cuda_without_nvcc_is_refused_in_words(tmp_path):
    configured = configure(tmp_path, "-DCARE_CUDA=ON", CUDACXX="nvcc-that-is-not-there")
    assert configured.returncode != 0
    assert "put it on PATH" in configured.stderr
