# Every target works on a fresh clone: .venv is made when it is missing or when the lock changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
SEEDS ?= 200
SEED ?=
FIRST ?= 0
MINUTES ?= 60
BLOCKS ?= 10000
# Tests that run at the same time. Each process of them takes up to 2 GiB.
JOBS ?= 2
# The package index that torch is installed from, on top of pip's own. Empty: pip's default build,
# which on Linux is the large CUDA one. See README, "Try it".
TORCH_INDEX ?=

export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help venv run test test-all check fix lint types imports spelling contracts simulate \
        simulate-training judge judge-environment fuzz chaos bench lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/.installed: requirements.lock requirements-torch.txt pyproject.toml tools/preflight.sh
	@sh tools/preflight.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		--requirement requirements-torch.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

venv: $(BIN)/.installed ## make .venv with the pinned dependencies

run: venv ## start a development network, train a model on it, claim the rewards (ARGS="--exit --summary out.json")
	$(BIN)/pot devnet $(ARGS)

test: venv judge-environment ## the tests, one network of real processes included (at most 10 minutes on 2 cores)
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist worksteal $(ARGS)

test-all: venv judge-environment ## the slow suites as well
	$(BIN)/python -m pytest $(ARGS)
	$(MAKE) simulate
	$(MAKE) simulate-training
	$(MAKE) judge
	$(MAKE) fuzz MINUTES=2

check: lint types imports spelling ## format, lint, types, import rules, spelling

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: venv
	$(BIN)/mypy

imports: venv
	$(BIN)/lint-imports

spelling: venv
	$(BIN)/codespell

fix: venv ## format and mend what can be mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

contracts: venv ## compile contracts/src into contracts/build
	$(BIN)/python contracts/build.py

simulate: venv ## simulated networks: SEEDS=200 from FIRST=0 on, or SEED=n to print one's events
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST))

simulate-training: venv ## simulated training rounds: SEEDS=200 from FIRST=0 on, or SEED=n to print one's events
	$(BIN)/python -m tests.training_simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS) --first $(FIRST))

judge-environment: venv ## .venv/judge: the environment of the second implementation of the EVM
	$(BIN)/python -m tests.judge.environment

judge: judge-environment ## random blocks, executed again by a second implementation: BLOCKS=10000 from seed FIRST=0 on, or SEED=n
	$(BIN)/python -m tests.judge $(if $(SEED),--seed $(SEED),--blocks $(BLOCKS) --first $(FIRST))

fuzz: venv ## mutated input and hostile peers on loopback, memory printed: MINUTES=60, SEED=n
	$(BIN)/python -W ignore -m tests.fuzz --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

chaos: venv ## real nodes on loopback under kills, pauses, cut links, lost and full disks, copied keys, set changes (ARGS="--seed 7 --seconds 120 --json out.json")
	$(BIN)/python -m tests.chaos $(ARGS)

bench: venv ## benchmarks, about 45 minutes; each prints a table and writes JSON to build/bench (ARGS=--smoke)
	$(BIN)/python -m bench $(ARGS)

lock: venv ## resolve the dependencies again
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--extra dev --constraint requirements-torch.txt --output-file requirements.lock pyproject.toml
	awk '/^torch==/ {skip = 1; next} /^[a-z0-9]/ {skip = 0} !skip' requirements.lock > $@.new
	mv $@.new requirements.lock
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --no-header \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
		--output-file requirements-judge.lock requirements-judge.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis node_modules tests/interop/node_modules
