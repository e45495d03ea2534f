"""What is shipped: an sdist that builds, and a wheel that works away from the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import care_accel

ROOT = Path(__file__).parents[1]


pytestmark = pytest.mark.compiler


def run(*arguments, cwd, **environment):
    done = subprocess.run(
        arguments, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    place = tmp_path_factory.mktemp("sdist")
    # From a copy: the build writes into its tree, and tests run side by side.
    tree = place / "tree"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "results", "runs"))
    run(
        sys.executable,
        "-m",
        "build",
        "--sdist",
        "--no-isolation",
        "--outdir",
        str(place),
        str(tree),
        cwd=place,
    )
    (file,) = place.glob("*.tar.gz")
    return file


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    command = (
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "-w",
        str(place),
        str(sdist),
    )
    # Every environment and every released wheel is built with all optimization, and source by source; here it would take a minute.
    quickly = "-DCARE_OPTIMIZATION=-O0 -DCMAKE_UNITY_BUILD=ON -DCMAKE_UNITY_BUILD_BATCH_SIZE=0"
    run(sys.executable, *command, cwd=place, CMAKE_ARGS=f"{os.environ.get('CMAKE_ARGS', '')} {quickly}")
    (file,) = place.glob("*.whl")
    return file


def test_the_sdist_holds_all_that_a_build_needs_and_no_leftovers(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert any(name.startswith("csrc/include/care/") for name in names)
    assert not [name for name in names if name.endswith((".so", ".o")) or "__pycache__" in name]


def test_the_wheel_holds_the_extension_the_model_and_the_demo(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        shipped = sum(entry.file_size for entry in archive.infolist() if "care-mini" in entry.filename)
    assert sum(name.startswith("care_accel/_native.") and name.endswith(".so") for name in names) == 1
    for name in (
        *(
            "_native.pyi",
            "libtriton_care.so",
            "py.typed",
            "assets/care-mini/care.json",
            "training/recipes/care-mini.yaml",
            "serving/tritonserver/requirements.txt",
            "curation/judges/prompts/relevance-v1.yaml",
        ),
        "serving/gateway/page/index.html",
    ):
        assert f"care_accel/{name}" in names
    assert any(name.startswith("care_accel/assets/care-demo/retrieval/") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "bench/", "csrc/"))]
    assert shipped <= 60e6


def test_the_wheel_works_away_from_the_checkout(wheel, tmp_path):
    place = tmp_path / "site"
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--target",
        str(place),
        str(wheel),
        cwd=tmp_path,
    )
    smoke = str(ROOT / "tests/smoke.py")  # the release workflow runs it too
    code = f"import runpy, sys; sys.path.insert(0, {str(place)!r}); runpy.run_path({smoke!r})"
    file, version = run(sys.executable, "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(place)
    assert version == care_accel.__version__
