# Everything that is done with a checkout; each target makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

.PHONY: help setup train test test-all lint format bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first and pinned, so that no other package chooses its build
$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) "$$(grep '^torch==' constraints.txt)"
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) -e '.[dev]'
	@touch $@

setup: $(VENV)/.dev  ## the virtual environment with all that development needs

train: $(VENV)/.run  ## the default training job: CLDR facts, a small encoder from scratch, minutes on a CPU
	$(BIN)/python train.py

test: $(VENV)/.dev  ## the tests that are quick: under 10 minutes on 2 cores
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.dev lint  ## lint and all tests, the slow ones too: under 45 minutes on 2 cores
	$(PYTEST)

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## the measurements of docs/results.md that need no training
	$(BIN)/python bench/plan.py
	$(BIN)/python bench/bm25_cldr.py

clean:  ## caches of tools; runs and the virtual environment stay
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
