# `make demo` and `make test` set up what they need in .venv; nothing else on the machine is changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BENCH_READY := $(VENV)/.ready-bench
FUZZ_READY := $(VENV)/.ready-fuzz

.PHONY: demo test check fuzz mutation bench bench-quick clean

demo: $(READY)
	@$(BIN)/python -m examples.demo

# In Python's development mode asyncio and the interpreter report what is left open, and each report fails its test. By
# the environment, since the processes that share the tests inherit no `-X dev`.
test: $(READY) check
	@PYTHONDEVMODE=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --cov --cov-report=term:skip-covered

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# A second for each target; `make fuzz ARGS="60 cookies url"` gives those two a minute each.
fuzz: $(FUZZ_READY)
	@$(BIN)/python -m tests.fuzz $(ARGS)

# Half an hour; `make mutation ARGS="cookies plan.plan_request"` takes those alone.
mutation: $(READY)
	@$(BIN)/python -m tests.mutation $(ARGS)

# Needs nginx, caddy and wrk, and says so. `make bench ARGS="--only get-32 ours nginx"` measures that alone.
bench: $(BENCH_READY)
	@$(BIN)/python -m tests.bench $(ARGS)

bench-quick: $(BENCH_READY)
	@$(BIN)/python -m tests.bench --quick $(ARGS)

$(BENCH_READY): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@

$(FUZZ_READY): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --group fuzz
	@touch $@

$(READY): pyproject.toml
	@echo "Setting up $(VENV): about a minute the first time."
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group test
	@touch $@

clean:
	rm -rf $(VENV) .demo .fuzz .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage
