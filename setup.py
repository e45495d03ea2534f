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
BACKEND = "libtriton_care.so"
NINJA = str(Path(ninja.BIN_DIR) / "ninja")


class CMakeBuild(build_ext):
    """Runs CMake and puts the one extension module, and the server's backend beside it, where setuptools wants it."""

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

    def copy_extensions_to_source(self):
        """Copy for an editable install what is no module too: the server's backend."""
        super().copy_extensions_to_source()
        place = self.get_finalized_command("build_py").get_package_dir("care_accel")
        self.copy_file(str(Path(self.build_lib, "care_accel", BACKEND)), str(Path(place, BACKEND)))


setup(ext_modules=[Extension("care_accel._native", sources=[])], cmdclass={"build_ext": CMakeBuild})
