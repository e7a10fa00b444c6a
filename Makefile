# Needs python3 (3.11 or newer) with venv and pip. Everything else goes into .venv, which any target makes.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first interpreter that runs and is new enough: a shim by the right name need not be either.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo $$python; break; }; done)
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
# Four more than there are cores: many tests wait for servers, or until a time is over.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 4)
PYTEST_ARGS ?=
SEEDS ?= 20000
# The tests start hundreds of interpreters: without bytecode each compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-long lint format bench clean

help: ## Say what there is to make.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/.uv:
	@test -n "$(PYTHON)" || { echo "make: no python3 of 3.11 or newer with venv and pip was found; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@touch $@

.venv/.demo: .venv/.uv pyproject.toml
	$(INSTALL) -e '.[demo]'
	@touch $@

# xarray is apart, for the test that needs it: Dask imports it if it finds it, and pandas with it, in every interpreter.
# So it does sparse, and numba with it, which dask-ml asks for and nothing here uses.
.venv/.test: .venv/.uv pyproject.toml
	$(INSTALL) -e '.[test,lint]'
	$(INSTALL) --no-deps --target .venv/xarray xarray
	$(BIN)/uv pip uninstall --quiet --python $(BIN)/python sparse
	@touch $@

.venv/.bench: .venv/.uv pyproject.toml
	$(INSTALL) -e '.[bench]'
	@touch $@

demo: .venv/.demo ## The singular value decomposition of a tall array, on Wukong.
	$(BIN)/python examples/tsqr.py --columns 100

# The servers that the stores are tested on, and a browser for the reports, from Debian's packages where they are not
# there already; dynalite, which stands in for DynamoDB, from npm.
.venv/.servers: .venv/.uv Makefile
	@updated=; for server in redis-server memcached chromium npm; do \
		command -v $$server >/dev/null && continue; \
		command -v apt-get >/dev/null || { echo "make: $$server is not installed, and there is no apt-get" >&2; exit 1; }; \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		echo "make: installing $$server"; \
		[ -n "$$updated" ] || $$sudo apt-get -qq update; updated=1; \
		$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y $$server >/dev/null; \
	done
	npm install --silent --no-audit --no-fund --no-save --prefix .venv/dynalite dynalite@4.0.0
	@touch $@

test: lint .venv/.servers ## Lint, type-check, and run the tests.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

test-long: lint .venv/.servers ## Also what a shorter test stands for, and 20,000 simulated jobs; about an hour.
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m 'long or not long' $(PYTEST_ARGS)
	$(BIN)/python -m wukong.testing.simulator --seeds $(SEEDS)
	$(BIN)/python -m wukong.testing.exhaustive --tasks 3 --faults 0 --looks 1
	$(BIN)/python -m wukong.testing.exhaustive --tasks 2 --faults 1

lint: .venv/.test ## ruff, mypy, import-linter.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.test ## Put the code into its format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.bench ## Every engine side by side; takes minutes.
	$(BIN)/python benchmarks/engines.py

clean: ## Remove .venv, builds and caches.
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
