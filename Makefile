# Everything a fresh Debian 12 with git, make and python3-venv lacks is set up by these targets themselves.

PYTHON ?= python3
PYTEST_ARGS ?=
VENV   := .venv
BIN    := $(VENV)/bin
# A new name whenever what is installed would be another: the stamp then is missing, and the environment is made again.
STAMP  := $(VENV)/made-for-$(shell sha256sum pyproject.toml | cut -c1-16)

.PHONY: help demo test checked bench setup tools tools-of-tests picture clean
.DEFAULT_GOAL := help

help:
	@echo 'make demo    patch a running stock kernel in a virtual machine, and watch'
	@echo 'make test    check and test everything (PYTEST_ARGS="-k NAME" for less)'
	@echo 'make bench   how long diffs, builds, patches and the loader take'
	@echo 'make setup   only what the others do first: Debian packages, Python environment'
	@echo 'make picture the picture in README.md, from a real run of the demo'
	@echo 'make clean   remove what was made here (the cache of kernels in ~/.cache/bespoke stays)'

demo: setup
	@$(BIN)/python -m samples.demo

# With `-j2` what is installed and what is checked do not wait for each other; the makes that tests run know nothing of it.
test: tools-of-tests checked
	env -u MAKEFLAGS $(BIN)/pytest -n auto --dist worksteal $(PYTEST_ARGS)

checked: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/vulture
	$(BIN)/mypy

bench: setup
	@$(BIN)/python -W ignore -c 'import cle' 2>/dev/null || \
		$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@$(BIN)/python -m tests.bench

picture: setup
	@$(BIN)/python -m samples.demo --svg docs/demo.svg

setup: tools $(STAMP)

tools:
	@.ci/tools

tools-of-tests:
	@.ci/tools tests

$(STAMP): pyproject.toml
	@echo 'Python environment: $(VENV)'
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .tox build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
