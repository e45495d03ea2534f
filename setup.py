"""Builds the native part with CMake; everything else is in pyproject.toml."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import cmake
import ninja
import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
# Those of the build requirements, whatever else is on the path.
CMAKE = str(Path(cmake.CMAKE_BIN_DIR) / "cmake")
NINJA = str(Path(ninja.BIN_DIR) / "ninja")


class CMakeBuild(build_ext):
    """Runs CMake and puts the one extension module where setuptools wants it."""

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        work = Path(self.build_temp).resolve() / ext.name
        work.mkdir(parents=True, exist_ok=True)
        configure = [
            CMAKE,
            "-S", str(ROOT),
            "-B", str(work),
            "-G", "Ninja",
            f"-DCMAKE_MAKE_PROGRAM={NINJA}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCARE_CUDA={os.environ.get('CARE_CUDA', 'OFF')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run([CMAKE, "--build", str(work)], check=True)
        subprocess.run([CMAKE, "--install", str(work), "--prefix", str(target)], check=True)


setup(ext_modules=[Extension("care_accel._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
