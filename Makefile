# One command for each purpose; `make help` lists them. Everything lives in .venv, made when missing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SDIST := $(VENV)/blinker-sdist/blinker-1.9.0.tar.gz

.DEFAULT_GOAL := help
.PHONY: help demo test lint types unit slow bench docs clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1: /p' $(MAKEFILE_LIST)

demo: $(VENV)/.demo  ## train a small model and show what the bus sees
	$(BIN)/eventbus demo

test: lint types unit  ## everything a change must pass

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: $(VENV)/.dev  # both at a time: each is mostly one process
	$(BIN)/pyright --pythonpath $(BIN)/python & pyright=$$!; $(BIN)/mypy; mypy=$$?; \
		wait $$pyright && exit $$mypy

unit: $(VENV)/.dev $(SDIST)
	$(BIN)/pytest -n 2 -m "not slow"

# Status 5 is pytest's for no test at all, which is no failure here.
slow: $(VENV)/.dev $(SDIST)  ## the tests that take their time
	$(BIN)/pytest -n 2 -m slow --timeout 600 || { [ $$? -eq 5 ] && echo "no test is marked slow"; }

bench: $(VENV)/.dev $(VENV)/.bench  ## what the bus and a checkpoint cost, beside others
	$(BIN)/python -m benchmarks
	$(BIN)/python benchmarks/checkpoint.py

docs: $(VENV)/.dev  ## write docs/*.md anew from the code
	$(BIN)/python -m eventbus.cli docs
	$(BIN)/pytest -q tests/loops/test_loops_page.py --write-docs

clean:  ## remove what the other targets made
	rm -rf $(VENV) build dist runs *.egg-info .benchmarks .coverage htmlcov .hypothesis
	rm -rf .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp file says that an extra is installed as pyproject.toml and constraints.txt want it.
$(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[$*]"
	@touch $@

# blinker's own tests come with its source; tests/eventbus/test_blinker_suite.py runs them on our signals.
$(SDIST): | $(BIN)/python
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary blinker \
		-d $(@D) blinker==1.9.0
