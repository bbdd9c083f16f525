# `make quick` and `make test` need Python 3.11 or newer and nothing else: they install what they need into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTHONS ?= python3.11 python3.14
WHICH ?= oldest newest

.PHONY: quick test soak lint perf matrix clean

quick: $(VENV)/.installed
	$(BIN)/noisebench run quick

# What is promised to users, in five minutes on two cores.
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal tests/unit tests/contracts tests/cli tests/faults tests/security

# The exhaustive forms, which take minutes or more: the tests marked `soak`, one at a time since each takes the machine for itself.
soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak --durations=0 tests

# The repository itself: formatting, types, the order of the layers, version bounds, and results/ as planned today.
lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest tests/repo

# Half an hour of tables: what things cost, each beside its reference. tests/perf/README.md shows them.
perf: $(VENV)/.installed-test
	for script in startup training streaming dynamics suite agreement growth strategies losses manifest report; do $(BIN)/python tests/perf/bench_$$script.py; done
	$(BIN)/python tests/perf/simulate_gate.py

# The tests of `make test`, one case of each, with the oldest and the newest versions that pyproject.toml allows; 5 GB of disk at a time.
# The newest that pip installs alone: make matrix WHICH=newest PYTHONS=python3.11
matrix: $(VENV)/.installed-test
	$(BIN)/python tests/support/versions.py $(PYTHONS) --which $(WHICH)

# torch and torchvision are asked for together and plainly: the newest pair that matches.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch torchvision
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .matrix manifests runs wandb trackio mlflow.db dist .mypy_cache .pytest_cache .ruff_cache
