# Everything runs in a virtual environment that the first target makes: make demo, make test, make check.
PYTHON ?= python3
# An environment a Python version, so that `make test PYTHON=python3.13` does not disturb the first.
TAG := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv-$(TAG)
BIN := $(VENV)/bin
RUN := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.cache/jax TF_CPP_MIN_LOG_LEVEL=2 $(BIN)/python

.PHONY: demo test test-slow check format clean

demo: $(VENV)/ready
	$(RUN) -m data_prep.build --dataset=streets --out=data
	$(RUN) -m uda_jax.compare --config=configs/demo.py --workdir=runs/demo $(ARGS)

test: $(VENV)/ready
	$(RUN) -m pytest $(ARGS)

test-slow: $(VENV)/ready
	$(RUN) -m pytest -m slow $(ARGS)

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/ready: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv-* .cache
