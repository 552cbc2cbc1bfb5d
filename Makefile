# Every target but `clean` sets up what it needs. `make demo` and `make test` are all that a new user has to know.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup demo test check format soak bench cluster serve lock clean

setup: .venv/ready

.venv/locked: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v[:2] == (3, 11) else f"Python 3.11 is needed, found {v.major}.{v.minor}: run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --require-hashes --only-binary :all: -r requirements.lock
	@touch $@

# The build backend is in the lock too: nothing is resolved or built in isolation.
.venv/ready: .venv/locked pyproject.toml
	$(BIN)/python -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup
	@$(BIN)/nightrank demo --home "$(CURDIR)/.nightrank"

# Two processes, of which one runs all that needs a cluster (tests/conftest.py); one that dies fails the run.
test: setup
	$(BIN)/pytest -n 2 --no-loadscope-reorder --max-worker-restart 0 -m "not soak"

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Spark is not in the lock (see pyproject.toml); without a Java there is nothing to install it for.
.venv/spark: .venv/ready tests/java.py
	@$(BIN)/python tests/java.py
	$(BIN)/python -m pip install --quiet --editable '.[spark]'
	@touch $@

.venv/torch: .venv/ready
	$(BIN)/python -m pip install --quiet --editable '.[torch]'
	@touch $@

soak: setup .venv/spark
	$(BIN)/pytest -m soak --timeout 1800

bench: setup .venv/spark .venv/torch
	$(BIN)/python benchmarks/top_k.py
	$(BIN)/python benchmarks/ials.py
	$(BIN)/python benchmarks/synth.py
	$(BIN)/python benchmarks/load.py
	$(BIN)/python benchmarks/svd.py
	$(BIN)/python benchmarks/fm.py
	$(BIN)/python benchmarks/hybrid.py
	$(BIN)/python benchmarks/published.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/score.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/batch_peers.py
	$(BIN)/python benchmarks/http_load.py
	$(BIN)/python benchmarks/http_faults.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/partitions.py
	$(BIN)/python benchmarks/meters.py

cluster: setup
	@exec $(BIN)/nightrank cluster start

serve: setup
	@exec $(BIN)/nightrank serve

# Only this target asks an index for versions; the lock names none.
lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --generate-hashes --no-emit-index-url --python-version 3.11 \
		--universal --quiet --custom-compile-command "make lock" --output-file requirements.lock

clean:
	rm -rf .venv .nightrank
