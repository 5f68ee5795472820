# Each target makes .venv by itself when it is missing and installs again only when the pins or the metadata changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.installed-docs
# Environments beside the pinned one: what an index resolves today, and the tools that build what is published.
NEWEST := .cache/newest
DIST := .cache/dist

# Compiled functions are kept between runs and shared between processes.
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS ?= 0

# Threads of BLAS fight with those of XLA; docs/performance.md has the measurement.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

# Python keeps what it has read of a file as bytecode; without that every process of the tests reads the library anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: figures test tests test-slow test-studies test-newest dist bench api docs lint style types format clean

figures: $(INSTALLED)
	$(BIN)/python -m experiments all

# Proofs hang on the accuracy of compiled functions: they are compiled as users compile, the rest with few optimisations
# (tests/conftest.py). So are the slow tests, so that each part of the library is also run as users run it.
PROOFS := $(patsubst %,tests/dynamics/%,proofs automata chaos destinations)
AS_USERS_COMPILE := XLA_FLAGS= $(BIN)/python -m pytest

# Types are checked beside the tests: pyright is one process, and would leave the other cores idle.
test: style
	$(MAKE) --no-print-directory --jobs 2 types tests

tests: $(INSTALLED)
	@# Both parts run, also where the first one fails.
	$(BIN)/python -m pytest -n 2 $(PROOFS:%=--ignore=%); first=$$?; \
	$(AS_USERS_COMPILE) -n 2 $(PROOFS) && exit $$first

test-slow: $(INSTALLED)
	$(AS_USERS_COMPILE) -n 2 -m slow

test-studies: $(INSTALLED)
	$(AS_USERS_COMPILE) -m studies

# The newest releases that an index offers to PYTHON, without pins, and the tests that hang on what JAX, NumPy or SciPy
# may change. Without an interpreter or an index there is nothing to learn, and that is no failure.
test-newest:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "test-newest: skipped, no $(PYTHON) here"; exit 0; }; \
	set -e; \
	rm -rf $(NEWEST); \
	$(PYTHON) -m venv $(NEWEST); \
	$(NEWEST)/bin/python -m pip download --quiet --no-deps --dest $(NEWEST)/index iniconfig >/dev/null 2>&1 || \
		{ echo "test-newest: skipped, no package index within reach"; exit 0; }; \
	$(NEWEST)/bin/python -m pip install --quiet --editable ".[test]"; \
	$(NEWEST)/bin/python -c 'import sys, jax, numpy, scipy, equinox; print("test-newest: Python", sys.version.split()[0], \
		*(f"{m.__name__} {m.__version__}" for m in (jax, numpy, scipy, equinox)))'; \
	XLA_FLAGS= $(NEWEST)/bin/python -m pytest -n 2 -m "newest and not slow and not studies"

# Wheel and source distribution, and what an index would refuse in them.
dist:
	$(PYTHON) -m venv $(DIST)
	$(DIST)/bin/python -m pip install --quiet build twine
	rm -rf dist
	$(DIST)/bin/python -m build --outdir dist .
	$(DIST)/bin/python -m twine check --strict dist/*

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

api: $(INSTALLED)
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/make_gallery.py

# The site, in results/site: strict, and nothing is fetched while it is built. The tools of the extra have a stamp of their own.
docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: style types

style: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/pyright

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .cache dist results

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "rnndyn needs Python 3.11 or newer; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	@touch $@
