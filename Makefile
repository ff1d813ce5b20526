# Everything that is done with a checkout; each target makes what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c $(CONSTRAINTS)
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile

.PHONY: help setup train test test-all lint docs format bench clean compat compat-full compat-tests compat-tests-without-torch

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; name another: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

# torch first and pinned, so that no other package chooses its build
$(VENV)/.run: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	$(PIP) "$$(grep '^torch==' $(CONSTRAINTS))"
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

# Other Pythons, and the lowest versions that pyproject.toml allows: each an environment of its own in .compat.
# TORCH=no is for Pythons that pip finds no fitting build of torch for: what is done before torch is imported.
COMPAT := 3.11 3.12 3.13 lowest
COMPAT_TESTS := config.py cli.py describe.py corpus.py plan.py tokenizer.py cldr.py encoder.py export.py losses.py \
	results.py compare.py significance.py language_bias.py wheel.py mteb.py::test_evaluate \
	adapters.py::test_a_run_trains_the_adapters_alone \
	training.py::test_killed_and_resumed_ends_with_the_same_bits \
	training.py::test_two_processes_train_the_same_model_as_one
ifeq ($(TORCH), no)
COMPAT := 3.11 3.12 3.13
COMPAT_TESTS := config.py describe.py corpus.py plan.py tokenizer.py cldr.py significance.py languages.py \
	document_store.py miracl.py launcher.py
WITHOUT := -without-torch
SELECTED := -m "not torch"
endif
PYTEST_COMPAT = $(PYTEST) --junitxml=$(VENV)/tests.xml \
	$(if $(ALL),-m "not slow",$(SELECTED) $(addprefix tests/test_, $(COMPAT_TESTS)))

compat: $(COMPAT:%=compat-%)  ## tests that pass through every part, with each Python found and the lowest versions
	@$(PYTHON) bench/compat.py .compat/*

compat-full:  ## all tests that are quick, likewise
	@$(MAKE) --no-print-directory compat ALL=yes

# a shim of pyenv is told which version it is asked for; uv knows those that it installed
$(COMPAT:%=compat-%): compat-%:
	@version=$(if $(filter lowest, $*),3.11,$*); \
	python=$$(PYENV_VERSION=$$(pyenv latest $$version 2>/dev/null) python$$version -c 'import sys; print(sys.executable)' \
		2>/dev/null || uv python find --no-project $$version 2>/dev/null); \
	test -n "$$python" || { echo "compat-$*: left out, no Python $$version found" >&2; exit 0; }; \
	$(MAKE) --no-print-directory compat-tests$(WITHOUT) VENV=.compat/$*$(WITHOUT) PYTHON=$$python \
		CONSTRAINTS=constraints$(if $(filter lowest, $*),-lowest).txt

compat-tests: $(VENV)/.dev
	$(BIN)/python -m pip check
	$(PYTEST_COMPAT)

$(VENV)/.dev-without-torch: pyproject.toml $(CONSTRAINTS) | $(VENV)/bin/python
	grep -v '^torch==' $(CONSTRAINTS) >$(VENV)/constraints.txt
	$(PIP) --no-deps -r $(VENV)/constraints.txt -e .
	@touch $@

compat-tests-without-torch: $(VENV)/.dev-without-torch
	! $(BIN)/python -m pip check | grep -vE 'requires torch, which is not installed|^No broken'
	$(PYTEST_COMPAT)

docs: $(VENV)/.dev  ## the documentation as a site, in site/; a broken link is an error
	$(BIN)/python -m sphinx -W --keep-going -q -d .cache/doctrees -c docs . site

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
