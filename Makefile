# Every target but help, clean and lock sets up .venv first; a second run finds nothing to do.
PYTHON ?= python3
TORCH ?= torch==2.13.0
TEST_WORKERS ?= 2
ARGS ?=

VENV := .venv
BENCH_VENV := .venv-bench
STAMP := $(VENV)/.set-up
BENCH_STAMP := $(BENCH_VENV)/.set-up
BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check install --quiet --quiet
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check format lock bench bench-learning bench-engine bench-market bench-log-ladder bench-saboteurs clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install the pinned packages into it (PYTHON=... chooses the Python)

demo: $(STAMP) ## walk one agent through all four phases on the sandbox ad network (ARGS="--seed 3")
	@$(BIN)/gaelp demo $(ARGS)

test: $(STAMP) ## run the tests, the long statistical ones left out (ARGS="-k ledger")
	@$(PYTEST) $(ARGS)

test-slow: $(STAMP) ## run the long statistical tests alone
	@$(PYTEST) -m slow $(ARGS)

check: $(STAMP) ## format, lint, types, floors, no-fallbacks; changes nothing
	@$(BIN)/ruff format --check --quiet --output-format concise . || { echo "some files are not formatted; 'make format' formats them." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/python -m gaelp.audit.floors src
	@$(BIN)/python -m gaelp.audit.no_fallbacks src

format: $(STAMP) ## format the code and apply the safe fixes of the linter
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

lock: ## resolve the newest versions that pyproject.toml allows and write both lock files (needs a working .venv)
	@$(COMPILE) --upgrade --extra dev --output-file requirements.lock
	@$(COMPILE) --upgrade --extra bench --constraints requirements.lock --output-file requirements-bench.lock

bench: $(BENCH_STAMP) ## measure training speed against Stable-Baselines3, in .venv-bench
	@$(BENCH_VENV)/bin/python benchmarks/bench_training.py $(ARGS)

bench-learning: $(BENCH_STAMP) ## how well PPO, DQN and SAC learn, beside their peers; about an hour (ARGS="--task ppo-cartpole --only-ours")
	@$(BENCH_VENV)/bin/python benchmarks/bench_learning.py $(ARGS)

bench-engine: $(BENCH_STAMP) ## how fast the engine is, beside its peers, on one core (ARGS="--line ppo-loop")
	@$(BENCH_VENV)/bin/python benchmarks/bench_engine.py $(ARGS)

bench-market: $(STAMP) ## how fast the auctions are, beside NumPy, on one core (ARGS="--line cells")
	@$(BIN)/python benchmarks/bench_market.py $(ARGS)

bench-log-ladder: $(STAMP) ## how near the pacer of auction logs comes to the LP bound (ARGS="--weather still")
	@$(BIN)/python benchmarks/bench_log_ladder.py $(ARGS)

bench-saboteurs: $(STAMP) ## what learning verification says of agents that do not learn, and of honest ones
	@$(BIN)/python benchmarks/bench_saboteurs.py $(ARGS)

clean: ## remove both virtual environments and every cache; runs/ is kept
	@rm -rf $(VENV) $(BENCH_VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One clear sentence when there is no usable Python; then a virtual environment, unless a sound one is there.
define new_venv
	@version="$$($(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)" || \
		{ echo "gaelp needs Python 3.11 or newer, and '$(PYTHON)' does not run; name one with PYTHON=/path/to/python3." >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "gaelp needs Python 3.11 or newer, and '$(PYTHON)' is $$version; name a newer one with PYTHON=/path/to/python3." >&2; exit 1; }; \
	if ! $(1)/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		echo "setting up $(1) with Python $$version; this happens once and takes about a minute"; \
		$(PYTHON) -m venv --clear $(1); \
	fi
endef

$(STAMP): requirements.lock pyproject.toml
	$(call new_venv,$(VENV))
	@$(BIN)/python $(PIP) --require-hashes --requirement requirements.lock
	@$(BIN)/python $(PIP) --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m compileall -q src
	@touch $@

# torch comes first and by name: see [tool.uv] in pyproject.toml.
$(BENCH_STAMP): requirements-bench.lock pyproject.toml
	$(call new_venv,$(BENCH_VENV))
	@$(BENCH_VENV)/bin/python $(PIP) "$(TORCH)"
	@$(BENCH_VENV)/bin/python $(PIP) --no-deps --require-hashes --requirement requirements-bench.lock
	@$(BENCH_VENV)/bin/python $(PIP) --no-deps --no-build-isolation --editable .
	@touch $@
