# `make quick` and `make test` need Python 3.11 or newer and nothing else: they install what they need into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTHONS ?= python3.11 python3.14
WHICH ?= oldest newest

.PHONY: quick test soak lint docs package perf matrix clean

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

# The documentation site, into site/; a broken link is an error. Needs no network.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Builds wheel and sdist, installs the wheel into a new environment outside of the checkout and runs a suite there.
package: $(VENV)/.installed
	rm -rf dist .package
	$(BIN)/python -m pip install --quiet --disable-pip-version-check build twine
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	$(PYTHON) -m venv .package/venv
	.package/venv/bin/python -m pip install --quiet --disable-pip-version-check torch torchvision
	.package/venv/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd .package && venv/bin/noisebench --version && venv/bin/noisebench run smoke
	rm -rf .package

# Half an hour of tables: what things cost, each with its reference. tests/perf/README.md shows them.
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

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .matrix .package site manifests runs wandb trackio mlflow.db dist .mypy_cache .pytest_cache .ruff_cache
