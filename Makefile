PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready

# OpenMP threads that wait should sleep soon. Next to another busy process, endless spinning costs a factor of ten.
# (GNU's OpenMP, which torch uses on Linux, reads this; others ignore it.)
export GOMP_SPINCOUNT := 3000

# One process per core; tests of one file stay in one process, which share their fixtures.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# Style, then types beside the tests, which have no work for all cores at their end; all have to pass.
define CHECK
$(BIN)/ruff check .
@$(BIN)/mypy & $(PYTEST) $(1); status=$$?; wait $$! && exit $$status
endef

.DEFAULT_GOAL := help
.PHONY: help env study test check lab site size clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(READY)  ## the environment only: `source .venv/bin/activate`, then `ttilib --help`

study: $(READY)  ## the complete study on the synthetic dataset: notebooks, figures, table
	$(BIN)/python -m ttilib study

test: $(READY)  ## all checks: style, types, library, notebooks, the study's table
	$(call CHECK)

check: $(READY)  ## the quick part of `make test`, without the notebooks
	$(call CHECK,-m "not study")

lab: $(READY)  ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks

site: $(READY)  ## outputs/site: the study, its notebooks and the documents as web pages, after `make study`
	$(BIN)/python docs/site.py

size:  ## lines and modules of the library
	@git ls-files 'ttilib/*.py' | xargs cat | wc -l | awk '{print $$1 " lines"}'
	@git ls-files 'ttilib/*.py' | grep -cv '__init__.py' | awk '{print $$1 " modules"}'

clean:  ## remove what the commands above write: environment, synthetic dataset, runs (tables stay)
	rm -rf $(VENV) data/mini outputs/mini outputs/site .pytest_cache .ruff_cache .hypothesis

# The environment is made if it is missing, and again if the list of packages has changed.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@
