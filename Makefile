# Every target first creates the same .venv: all extras except tensorrt and those of other environments, installed editable, with
# the native extension in place; for make eval in a new folder only what an evaluation needs. It is rebuilt only when something
# that it depends on has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EVALUATES := $(VENV)/.evaluates
NATIVE := $(shell find csrc -type f)
SERVER := care_accel/serving/tritonserver/requirements.txt
CLIENTS := .venv-clients
CLUSTER := .venv-cluster
STORES := .venv-stores
DATA ?= ../shared/data

export CARE_DATA := $(DATA)
# Warnings are errors for developers only: a user's newer compiler must not fail the build.
export CMAKE_ARGS := -DCMAKE_COMPILE_WARNING_AS_ERROR=ON
# Tests start hundreds of processes: each would compile every module that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help eval test quick clients cluster stores lint format bench gpu-check deploy-check serve docs docs-serve clean

help:
	@echo "make eval    evaluate the embedded model on the embedded benchmark"
	@echo "make test    run the tests"
	@echo "make quick   run the fast tests that need no server, browser or compiler"
	@echo "make clients test the integrations with LangChain, LlamaIndex and Haystack, and these against the gateway"
	@echo "make cluster test encoding and searching on a Ray cluster of this machine"
	@echo "make stores  test collections in an object store, and their export to Milvus"
	@echo "make lint    check style and types"
	@echo "make format  fix style"
	@echo "make bench   run the benchmarks (SIZE=smoke, default or full)"
	@echo "make gpu-check  build, test and measure the GPU parts, with the torch of PYTHON"
	@echo "make deploy-check  check deploy/ with the programs that read its files"
	@echo "make serve   serve the embedded model and demo with NVIDIA Triton Inference Server"
	@echo "make docs    build the documentation's site; make docs-serve shows it on this machine"
	@echo "make clean   remove everything that make created"

eval: $(if $(wildcard $(READY)),$(READY),$(EVALUATES))
	$(BIN)/python -m care_accel.eval

# One more than there are cores: tests wait a fifth of their time, for servers and for processes that they have killed.
WORKERS ?= $(shell expr $$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN) + 1)
PYTEST = $(BIN)/python -m pytest -n $(WORKERS)

test: $(READY)
	$(PYTEST) --durations 20 --durations-min 1

quick: $(READY)
	$(PYTEST) -m 'not server and not browser and not compiler and not slow'

clients: $(CLIENTS)/.ready
	$(CLIENTS)/bin/python -m pytest tests/clients tests/integrations --durations 5

cluster: $(CLUSTER)/.ready
	$(CLUSTER)/bin/python -m pytest tests/cluster --durations 5

stores: $(STORES)/.ready
	$(STORES)/bin/python -m pytest tests/stores --durations 5

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

SIZE ?= default
bench: $(READY)
	$(BIN)/python -m pytest bench --benchmark-only --bench-size $(SIZE)

# Uses $(PYTHON) instead of the .venv: a machine with a GPU has its own torch. Results go to bench/results.
gpu-check:
	$(PYTHON) -m bench.gpu.check

deploy-check:
	sh deploy/check.sh

serve: $(READY)
	$(BIN)/care-accel serve --repository model_repository

# The site has an environment of its own: the tests need none of it, and it needs none of theirs. It reads the package's
# docstrings without the extension and without what the package would import.
DOCS := .venv-docs
DOCS_READY := $(DOCS)/.ready
SITE := docs/_build/html
DOCS_PORT ?= 8010

docs: $(DOCS_READY)
	$(DOCS)/bin/sphinx-build -W --keep-going -q -d docs/_build/doctrees docs $(SITE)
	@echo "the site is in $(SITE)"

docs-serve: docs
	@echo "http://127.0.0.1:$(DOCS_PORT)"
	$(DOCS)/bin/python -m http.server --bind 127.0.0.1 --directory $(SITE) $(DOCS_PORT)

$(DOCS_READY): pyproject.toml constraints.txt
	test -x $(DOCS)/bin/python || $(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*project["optional-dependencies"]["docs"], *(d for d in project["dependencies"] if d.startswith(("numpy", "rich"))), sep="\n")' \
	  > $(DOCS)/requirements.txt
	$(DOCS)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -r $(DOCS)/requirements.txt
	@touch $@

$(READY): EXTRAS := collection,eval,train,curate,onnx,server,gateway,bench,dev
$(EVALUATES): EXTRAS := eval
$(READY): IMPORTED := torch, transformers, sentence_transformers, mteb, datasets, scipy.stats, onnx, peft, lance, openai
$(READY): $(SERVER)
$(READY) $(EVALUATES): pyproject.toml setup.py CMakeLists.txt constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "needs Python 3.11 to 3.13: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "needs the system package python3-venv" >&2; exit 1; }
	@command -v g++ >/dev/null || { echo "needs the system package g++" >&2; exit 1; }
	@test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" \
	  || { echo "needs the system package python3-dev" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools pybind11 cmake ninja
# Most of the modules are never imported: Python compiles the others when they are.
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt --no-build-isolation \
	  -e '.[$(EXTRAS)]'
# Meanwhile Python compiles what all workers of the tests import first, each for itself if it were not there. The wheel's server
# has no numpy for Python 3.13.
	@test $@ = $(READY) || exit 0; \
	  $(BIN)/python -c 'import $(IMPORTED)' & compiled=$$!; \
	  if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then $(BIN)/care-accel serve --install || exit; fi; \
	  wait $$compiled
	@touch $@

# These stand on the other environment, and are not in it: they bring packages that nothing else needs.
PATHS := import sysconfig; print(sysconfig.get_path("purelib"))
# botocore, below moto, takes an older one.
$(STORES)/.ready: UNPINNED := ^python-dateutil=
$(CLIENTS)/.ready $(CLUSTER)/.ready $(STORES)/.ready: %/.ready: $(READY)
	test -x $*/bin/python || $(PYTHON) -m venv $*
	echo "import site; site.addsitedir('$$(realpath "$$($(BIN)/python -c '$(PATHS)')")')" \
	  > "$$($*/bin/python -c '$(PATHS)')/care_accel_environment.pth"
	mkdir -p $*/share && ln -sfn "$(abspath $(VENV))/share/care-accel" $*/share/care-accel  # the server
	grep -v $(or $(UNPINNED),^$$) constraints.txt > $*/constraints.txt
	$*/bin/pip install --quiet --disable-pip-version-check -c $*/constraints.txt 'care-accel[$(patsubst .venv-%,%,$*)]'
	@touch $@

clean:
	rm -rf $(VENV) $(CLIENTS) $(CLUSTER) $(STORES) $(DOCS) docs/_build build dist *.egg-info care_accel/*.so results .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find care_accel tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
