# make run · make test · make lint · make protos · make test-cluster · make test-slow · make test-serve · make bench
PYTHON ?= python3.11
VENV   ?= .venv
PY      = $(VENV)/bin/python
DATASET ?= virtual
DATA_DIR ?=

.PHONY: run test test-cluster test-slow test-serve bench bench-sweep bench-serving lint protos install clean

install: $(VENV)/.installed

# torch comes from whatever index pip is told to use; on Linux the default build carries CUDA.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet torch==2.13.0
	$(PY) -m pip install --quiet --editable '.[train,serve,demo,dev]'
	touch $@

run: install
	$(PY) -m trainer pipeline --run trainer/runs/demo.toml --dataset $(DATASET) $(if $(DATA_DIR),--data-dir $(DATA_DIR))
	$(PY) -m services.demo --dataset $(DATASET) $(if $(DATA_DIR),--data-dir $(DATA_DIR))

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: install lint
	$(PY) -m pytest

test-cluster: install
	$(PY) -m pytest -m cluster

test-slow: install
	$(PY) -m pytest -m slow

# An environment with the serve extra alone: what the inference image holds.
test-serve:
	$(PYTHON) -m venv --clear .venv-serve
	.venv-serve/bin/python -m pip install --quiet --upgrade pip
	.venv-serve/bin/python -m pip install --quiet --editable '.[serve]'
	.venv-serve/bin/python -m tests.serve_only

# Minutes to a quarter of an hour each, alone on the machine.
bench: bench-sweep bench-serving

bench-sweep: install
	$(PY) -m benchmarks.sweep ratio
	$(PY) -m benchmarks.sweep overhead
	$(PY) -m benchmarks.sweep memory
	$(PY) -m benchmarks.sweep plan

bench-serving: install
	for what in cost batch start monitor overload moves drain soak; do \
		$(PY) -m benchmarks.serving $$what || exit 1; \
	done

protos: install
	$(PY) -m protos.generate

clean:
	rm -rf $(VENV) .venv-serve runs registry
