# Everything a newcomer runs. `make help` lists it.

PROFILE ?= quick
DATA ?=
PYTHON ?= python3

# One thread a process: two processes that each use every core are ten times slower than two that keep to one.
export OMP_NUM_THREADS ?= 1

UV_VERSION := 0.13.9
BIN := .venv/bin
SETTINGS := --profile "$(PROFILE)" $(if $(DATA),--data-root "$(DATA)")

.DEFAULT_GOAL := help
.PHONY: book test lint bench data clean lock help

help:  ## this list
	@echo 'make TARGET [PROFILE=quick|cpu|paper] [DATA=folder of the data sets]'
	@awk -F ':.*## *' '/^[a-z]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' Makefile

book: .venv/.installed  ## run the profile, execute the notebooks, build the HTML book
	$(BIN)/pdam reproduce $(SETTINGS)
	$(BIN)/python book/build.py $(SETTINGS)
	@echo 'The book is ready: open _build/html/index.html in a browser.'

test: .venv/.installed  ## all tests, slow ones too
	$(BIN)/python -m pytest

lint: .venv/.installed  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed  ## our speed against the peer's, one ratio a script
	@set -e; for script in benchmarks/*.py; do echo "$$script"; $(BIN)/python "$$script"; done

data: .venv/.installed  ## download the data sets into DATA (default: data), then check them
	$(BIN)/pdam data download --root "$(or $(DATA),data)"
	$(BIN)/pdam data check --root "$(or $(DATA),data)"

clean:  ## delete the built book and caches; runs/, data and .venv stay
	rm -rf _build book/executed build .pytest_cache .mypy_cache .ruff_cache .hypothesis .snakemake *.egg-info
	find pdamlib tests benchmarks book -name __pycache__ -type d -prune -exec rm -rf {} +

lock: $(BIN)/uv  ## pin every dependency of pyproject.toml anew
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-emit-index-url \
	  -o requirements.lock

# The environment is made once, and brought up to date when what it is made from has changed.
.venv/.installed: requirements.lock pyproject.toml | $(BIN)/uv
	$(BIN)/uv pip sync --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("This project needs Python 3.11 or newer, and " \
	  "$(PYTHON) is %d.%d: name another one, as in `make book PYTHON=python3.12`" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
