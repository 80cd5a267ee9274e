# Every target sets up what it needs in a virtual environment of its own making; nothing is installed elsewhere.

PYTHON ?= python3
VENV ?= .venv
TYPE_VERSIONS ?= 3.10 3.11 3.12 3.13 3.14

BIN := $(VENV)/bin
# Quiet, but errors still show.
PIP_INSTALL := $(BIN)/python -m pip install -q --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test compat lint types bench clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 15
	@echo "Variables: PYTHON (now $(PYTHON)), VENV (now $(VENV)), ARGS for pytest and the benchmarks."

demo: $(VENV)/.stamp-package ## run the demonstration: install the package and talk over loopback
	$(BIN)/python -m dtls.cli.demo $(ARGS)

test: $(VENV)/.stamp-test ## run the tests
	$(BIN)/python -m pytest $(ARGS)

compat: $(VENV)/.stamp-test ## run the old package's test suites, and CPython's for ssl, against this package
	status=0; for suite in old_suites stdlib_ssl; do $(BIN)/python -m tests.compat.$$suite || status=1; done; exit $$status

lint: $(VENV)/.stamp-lint ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-types ## check types for every supported version of Python
	set -e; for version in $(TYPE_VERSIONS); do $(BIN)/mypy --python-version $$version; done

bench: $(VENV)/.stamp-bench ## measure speed and memory
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove environments, caches and builds
	rm -rf .venv .venv-* build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The interpreter is an order-only prerequisite: its timestamp is that of the system's Python.
$(VENV)/.stamp-package: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.stamp-%: pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -e '.[$*]'
	@touch $@
