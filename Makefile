# `make` lists the targets. Everything runs in .venv, which is made on first use and whenever
# pyproject.toml or constraints.txt change; running a target again does nothing twice.

SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
TEXT ?= I've been waiting for this library my whole life.
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test browser lint type bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 12

demo: .venv/.run  ## judge a sentence and show the three steps: make demo TEXT="..."
	@$(BIN)/pellucid run sentiment-analysis --steps -- "$$TEXT"
demo: export TEXT := $(TEXT)

test: .venv/.dev browser lint type  ## set up, check style and types, run all tests
	@$(BIN)/python -m pytest

browser:  ## the browser that pages are tested in
	@command -v chromium >/dev/null || { echo "installing chromium" && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	  || { echo "the tests of pages need chromium; install it, for example with: sudo apt-get install chromium"; exit 1; }

lint: .venv/.dev  ## style
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

type: .venv/.dev  ## strict types
	@$(BIN)/mypy

bench: .venv/.dev  ## the benchmarks of the README's table, beside the reference
	@$(BIN)/python benchmarks/run.py

clean:  ## remove the environment
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"pellucid needs Python 3.11 or newer; {sys.executable} is {v.major}.{v.minor}. Install it, then: make PYTHON=/path/to/python3.11")'
	@echo "making .venv" && $(PYTHON) -m venv .venv

.venv/.run: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing pellucid (a minute or two the first time)" && $(PIP) --editable . && touch $@

.venv/.dev: .venv/.run
	@echo "installing the test tools" && $(PIP) --editable '.[dev]' && touch $@
