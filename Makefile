# make run · make test · make lint · make protos · make test-cluster · make test-slow · make test-serve · make test-triton
# make bench · make up · make down · make demo-stack · make test-stack · make images · make locks
PYTHON ?= python3.11
VENV   ?= .venv
PY      = $(VENV)/bin/python
DATASET ?= virtual
DATA_DIR ?=

# The stack. TORCH=cpu or TORCH=cuda for the trainer's image; BUILD holds further options of `docker build`.
DOCKER   ?= docker
COMPOSE  ?= docker compose
BUILD    ?=
TORCH    ?=
PROFILE  ?=
SCALE    ?=
GUARDED  ?=
SERVICES ?=
VERSION  := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
STACK     = $(COMPOSE) -f deploy/compose.yaml $(if $(SCALE),--env-file deploy/scale.env --profile scale) \
            $(if $(GUARDED),--env-file deploy/guarded.env) $(if $(PROFILE),--profile $(PROFILE))

.PHONY: run test test-cluster test-slow test-serve test-stack test-triton bench bench-sweep bench-serving bench-speed
.PHONY: lint protos install clean
.PHONY: up start down demo-stack images locks

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

# Triton's own client against the service. GLUCAST_TRITON_PYTHON: of an environment with it; without it one is made.
test-triton: install
	$(PY) -m pytest -m triton

# An environment with the serve extra alone: what the inference image holds.
test-serve:
	$(PYTHON) -m venv --clear .venv-serve
	.venv-serve/bin/python -m pip install --quiet --upgrade pip
	.venv-serve/bin/python -m pip install --quiet --editable '.[serve]'
	.venv-serve/bin/python -m tests.serve_only

# Builds the images and runs the stack, with an engine of its own where no image registry is reached.
test-stack: install
	$(PY) -m pytest -m stack tests/stack

image-%:
	DOCKER_BUILDKIT=1 $(DOCKER) build --target $* $(if $(filter trainer,$*),--build-arg TORCH=$(TORCH)) $(BUILD) \
		-t glucast/$*:$(VERSION) .

images: image-inference image-registry image-trainer

up: image-inference image-registry $(if $(filter train,$(PROFILE)),image-trainer) start

start:  # what is built already
	bash deploy/secrets.sh
	$(STACK) up -d --no-build --wait $(SERVICES)

down:
	$(COMPOSE) -f deploy/compose.yaml --profile '*' down

demo-stack:
	$(MAKE) up PROFILE=train
	COMPOSE='$(STACK)' bash deploy/demo-stack.sh

# What the images install, by version and hash. CPU_WHEELS: where torch==…+cpu is, which PyPI does not have.
LOCK = uv pip compile --quiet --generate-hashes --no-header --no-annotate --python-version 3.11 \
       --python-platform x86_64-manylinux_2_28
locks:
	$(LOCK) pyproject.toml --extra serve --extra traces -o deploy/locks/inference.txt
	$(LOCK) deploy/locks/registry.in -o deploy/locks/registry.txt
	$(LOCK) pyproject.toml --extra train --extra serve --extra demo -o deploy/locks/trainer-cuda.txt
	$(LOCK) pyproject.toml --extra train --extra serve --extra demo --override deploy/locks/cpu.in \
		--find-links $(CPU_WHEELS) -o deploy/locks/trainer-cpu.txt

# Minutes to a quarter of an hour each, alone on the machine.
bench: bench-sweep bench-serving bench-speed

bench-sweep: install
	$(PY) -m benchmarks.sweep ratio
	$(PY) -m benchmarks.sweep overhead
	$(PY) -m benchmarks.sweep memory
	$(PY) -m benchmarks.sweep plan

bench-serving: install
	for what in cost batch start monitor overload moves drain soak; do \
		$(PY) -m benchmarks.serving $$what || exit 1; \
	done

# PEER: python of an environment with neuralforecast; without it one is made, about two gigabytes.
bench-speed: install
	$(PY) -m benchmarks.speed all $(if $(PEER),--peer-python $(PEER)) --json runs/speed.json

protos: install
	$(PY) -m protos.generate

clean:
	rm -rf $(VENV) .venv-serve .containers runs registry
