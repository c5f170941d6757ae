# Everything a fresh machine needs is made on the way: `make demo` and `make test` set up .venv by themselves,
# once, from the exact versions in requirements/. Another Python: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
# Two workers on small machines; one thread each, so that they do not fight over the cores.
WORKERS ?= 2
TORCH   ?= torch==2.13.0
# What prefine is measured against lives in an environment of its own.
PEER          := .venv-peer
BENCH_THREADS ?= 2
BENCH = $(if $(PAIRS),--pairs $(PAIRS)) $(if $(DATA),--data $(DATA)) $(if $(SLATES),--slates $(SLATES))

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test claims bench bench-gpu lint format docs clean
# A recipe that fails leaves no half-made stamp behind.
.DELETE_ON_ERROR:

help: ## this list
	@echo "prefine: improve models from preferences"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 17

setup: $(VENV)/.test ## .venv with everything, without running anything

demo: $(VENV)/.run ## a run from start to report on the embedded assistant: a few minutes on two cores
	@OMP_NUM_THREADS=2 $(BIN)/prefine demo

test: $(VENV)/.test ## the tests
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

claims: $(VENV)/.run ## measure the claim of every system, into claims.json
	@$(BIN)/prefine claim --all

bench: $(VENV)/.run $(PEER)/.done ## measure against TRL and transformers; ROWS="..." PAIRS=5 DATA=pairs.jsonl SLATES=slates.jsonl
	@OMP_NUM_THREADS=$(BENCH_THREADS) $(BIN)/python -m benchmarks $(ROWS) $(BENCH)

bench-gpu: $(VENV)/.run $(PEER)/.done ## the training rows with a 0.5B model on a CUDA device
	@$(BIN)/python -m benchmarks $(or $(ROWS),gpu) $(BENCH)

lint: $(VENV)/.test ## style, format and types
	@$(BIN)/ruff check src tests benchmarks docs
	@$(BIN)/ruff format --check src tests benchmarks docs
	@$(BIN)/mypy

format: $(VENV)/.test ## put style and format right
	@$(BIN)/ruff check --fix src tests benchmarks docs
	@$(BIN)/ruff format src tests benchmarks docs

docs: $(VENV)/.test ## the documentation site, into site/ (needs no network)
	@$(BIN)/python docs/make_pages.py build/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@if grep -rnE '<(script|img|iframe|link)[^>]* (src|href)="(https?:)?//' site --include='*.html'; then \
		echo "make: these pages would load something from elsewhere" >&2; exit 1; fi
	@echo "site/index.html"

clean: ## remove what was built; runs and .venv stay
	@rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment, in three steps with a stamp each: what is done is not done again ---

$(VENV)/.torch:
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3 ..." >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: prefine needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "[1/3] .venv and $(TORCH) (a large download, once)"
	@$(PYTHON) -m venv $(VENV) || { echo "make: $(PYTHON) cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@$(PIP) install $(TORCH)
	@touch $@

$(VENV)/.run: $(VENV)/.torch requirements/run.txt pyproject.toml
	@echo "[2/3] what prefine needs, and prefine itself"
	@$(PIP) install -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run requirements/test.txt
	@echo "[3/3] what the tests, the linters and the documentation need"
	@$(PIP) install -r requirements/test.txt
	@touch $@

# --- what the benchmarks compare with, pinned, and never in prefine's own environment ---

$(PEER)/.torch:
	@echo "[1/2] $(PEER) and $(TORCH) (a large download, once)"
	@$(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -m pip --disable-pip-version-check -qq install $(TORCH)
	@touch $@

$(PEER)/.done: $(PEER)/.torch requirements/bench-peer.txt
	@echo "[2/2] TRL and what it needs"
	@$(PEER)/bin/python -m pip --disable-pip-version-check -qq install -r requirements/bench-peer.txt
	@touch $@
