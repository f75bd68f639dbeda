# Everything runs in a virtual environment that the first target makes: make demo, make test, make check.
PYTHON ?= python3
# An environment a Python version, so that `make test PYTHON=python3.13` does not disturb the first.
TAG := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv-$(TAG)
BIN := $(VENV)/bin
RUN := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python

.PHONY: demo test test-slow test-optimized check format clean python

# All runs of a seed start from the same few hundred steps on the source.
SEED ?= 0
RUNS ?= runs/demo
IMAGES ?= --train_images=200 --val_images=60
START := $(RUNS)/start/seed$(SEED)
DEMO := --config=configs/streets_laptop.py --config.seed=$(SEED) $(ARGS)

demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
demo: $(VENV)/ready weights/efficientnet_lite0.npz
	$(RUN) -m data_prep.build --dataset=streets --size=384x192 $(IMAGES) --out=data/big
	$(RUN) -m uda_jax.main $(DEMO) --config.method=source_only --workdir=$(START)
	$(RUN) -m uda_jax.export --checkpoint=$(START) --out=$(START)/weights.npz
	$(RUN) -m uda_jax.compare $(DEMO) --config.model.pretrained=$(START)/weights.npz --workdir=$(RUNS)

weights/efficientnet_lite0.npz: | $(VENV)/ready
	$(RUN) -m uda_jax.weights --from=efficientnet_lite0 --to=$@

test: $(VENV)/ready
	$(RUN) -m pytest $(ARGS)

test-slow: $(VENV)/ready
	$(RUN) -m pytest -m slow $(ARGS)

# The rest of the suite compiles without LLVM's optimisations, as no user does: parity and exact resume as they run.
test-optimized: export UDA_JAX_TEST_OPTIMIZED = 1
test-optimized: $(VENV)/ready
	$(RUN) -m pytest tests/parity tests/training/test_train.py $(ARGS)
	$(RUN) -m pytest -m slow tests/training/test_kill.py $(ARGS)

check: $(VENV)/ready
	$(BIN)/pip check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/ready: requirements.txt pyproject.toml | python
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

# TensorFlow decides which ones work.
python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); TensorFlow, which reads the data, has no wheel for it here:" \
	    "take Python 3.11, 3.12 or 3.13, as in: make test PYTHON=python3.13" >&2; \
	  echo "found on this machine:" $$(command -v python3.11 python3.12 python3.13 || echo none of them) >&2; exit 2; }

clean:
	rm -rf .venv-* .cache
