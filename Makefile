# Two commands do everything on a fresh machine: `make quick` and `make test`. Both need Python 3.11 or newer, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTHONS ?= python3.11 python3.14

.PHONY: quick test soak lint perf matrix clean

quick: $(VENV)/.installed
	$(BIN)/noisebench run quick

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest -n auto --dist worksteal

# What takes minutes or more, one at a time since each takes the machine for itself: the tests marked `soak`.
soak: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m soak --durations=0

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Half an hour of tables: what things cost, each beside its reference. tests/perf/README.md shows them.
perf: $(VENV)/.installed-test
	for script in startup training streaming dynamics suite agreement growth strategies losses manifest report; do $(BIN)/python tests/perf/bench_$$script.py; done
	$(BIN)/python tests/perf/simulate_gate.py

# The tests, one case of each, with the oldest and the newest versions that pyproject.toml allows; 5 GB at a time. A Python that is not here is said.
matrix: $(VENV)/.installed-test
	$(BIN)/python tests/support/versions.py $(PYTHONS)

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
