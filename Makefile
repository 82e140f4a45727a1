# The two commands of the README are `make demo` and `make test`; `make check` is the gate before a commit.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: demo test slow olmo lint check format docs lock clean

demo: .venv/core.stamp  ## install, run the smoke study on the corpus that ships with the package, print the report's path
	$(BIN)/paribus study ergodic smoke

test: .venv/dev.stamp  ## install with the development extras, run the default tests
	$(BIN)/python -m pytest

slow: .venv/olmo.stamp  ## the tests that take minutes
	$(BIN)/python -m pytest -m "slow and not gpu and not net"

olmo: .venv/olmo.stamp  ## add OLMo-core to the development environment

lint: .venv/dev.stamp  ## format, lint, types, import contracts
	$(BIN)/ruff format --check src tests benchmarks scripts
	$(BIN)/ruff check src tests benchmarks scripts
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## the gate before a commit

format: .venv/dev.stamp
	$(BIN)/ruff format src tests benchmarks scripts
	$(BIN)/ruff check --fix src tests benchmarks scripts

docs: .venv/dev.stamp  ## remake what is generated: docs/config.md
	$(BIN)/python scripts/make_config_reference.py

lock: .venv/dev.stamp  ## write the versions now installed to constraints.txt
	$(BIN)/python scripts/make_constraints.py

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("paribus needs Python 3.11 or later, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

.venv/core.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing paribus into .venv (about a minute) ..."
	$(PIP) --editable '.[jax]'
	@touch $@

.venv/dev.stamp: pyproject.toml constraints.txt | .venv/bin/python
	@echo "installing paribus and its development extras into .venv (about two minutes) ..."
	$(PIP) --editable '.[dev]'
	@touch $@ .venv/core.stamp

.venv/olmo.stamp: constraints-olmo.txt .venv/dev.stamp
	@echo "installing OLMo-core into .venv (64 MB, about ten seconds) ..."
	$(PIP) --no-deps --requirement constraints-olmo.txt
	@touch $@

clean:
	rm -rf .venv build dist runs stores
