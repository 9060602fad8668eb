PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# Threads that wait for each other should soon sleep instead of spinning: beside another busy program, endless
# spinning costs a factor of ten. (For GNU's OpenMP, which torch uses on Linux; others ignore it.)
export GOMP_SPINCOUNT := 3000

.DEFAULT_GOAL := help
.PHONY: help env study test check lab size clean

help:  ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(READY)  ## the environment only: `source .venv/bin/activate`, then `ttilib --help`

study: $(READY)  ## the whole study on the embedded corpus: notebooks, figures, table
	$(BIN)/python -m ttilib study

test: $(READY)  ## everything is checked: style, library, notebooks, the study's table
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

check: $(READY)  ## the quick part of `make test`, without the notebooks
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -m "not study"

lab: $(READY)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

size:  ## lines and modules of the library
	@git ls-files 'ttilib/*.py' | xargs cat | wc -l | awk '{print $$1 " lines"}'
	@git ls-files 'ttilib/*.py' | grep -cv '__init__.py' | awk '{print $$1 " modules"}'

clean:  ## remove what can be made again: environment, embedded corpus, runs (tables stay)
	rm -rf $(VENV) data/mini outputs/mini .pytest_cache .ruff_cache .hypothesis

# The environment is made when it is missing and again when the list of packages has changed.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
