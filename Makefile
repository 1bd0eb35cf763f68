PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# so that tests need no network and two test processes share two cores
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1

.PHONY: demo test lint format clean students

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

# the checkpoint in refine/students, made anew in two runs (its README says how long they took)
WORLD := problems.world.min_steps=1 problems.world.max_steps=4 problems.world.max_distractors=1 \
	'problems.world.operations=[more,fewer,times,share]'
FIRST := train.tokens_per_step=2048 train.tokens_per_batch=2048 train.learning_rate=1.5e-3 train.warmup=0.02 train.stop_after=4329
SECOND := train.tokens_per_step=4096 train.tokens_per_batch=4096 train.learning_rate=6e-4 train.warmup=0.02 train.beta2=0.99

students: $(VENV)/.installed
	$(BIN)/python -m experiments.train_policy run.name=student_1 $(WORLD) problems.world.size=110000 \
		problems.world.totals=0.3 $(FIRST)
	$(BIN)/python -m experiments.train_policy run.name=student_2 $(WORLD) problems.world.size=160000 problems.world.seed=1 \
		problems.world.totals=0.1 $(SECOND) policy=$$($(BIN)/python -c 'import glob, json, os; \
		print(json.load(open(max(glob.glob("runs/student_1/*/result.json"), key=os.path.getmtime)))["path"])')
