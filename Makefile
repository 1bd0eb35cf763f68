PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# so that tests need no network and two test processes share two cores
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1

.PHONY: demo test lint format clean

demo: $(VENV)/.installed
	$(BIN)/python -m experiments.glore run.name=demo

test: lint
	$(OFFLINE) $(BIN)/python -m pytest -n 2 -q

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.installed: pyproject.toml setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(CONSTRAINED) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(CONSTRAINED) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
