PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# so that tests need no network and two test processes share two cores
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1

.PHONY: demo test lint format clean students bench-sampling

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

# the checkpoint in refine/students, made anew (its README says how long it took)
students: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.train_policy run.name=student run.threads=1 \
		problems.world.min_steps=1 problems.world.size=18000 problems.world.seed=1 \
		model.heads=4 'model.look_back=[1,3,5,7]' \
		train.tokens_per_step=512 train.tokens_per_batch=512 train.learning_rate=1e-3 train.warmup=0.02

# tokens a second of the backend hf beside plain `generate`, and of vLLM where .venv-vllm is there; e.g.
# make bench-sampling BENCH='--model MODEL --gsm8k FOLDER --prompts 8 --rows 64 --max-tokens 64'
bench-sampling: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.bench_sampling $(BENCH)
	@if [ -x .venv-vllm/bin/python ]; then OMP_NUM_THREADS=1 .venv-vllm/bin/python -m experiments.bench_vllm $(BENCH_VLLM); \
	else echo "vLLM is not measured: there is no .venv-vllm"; fi
