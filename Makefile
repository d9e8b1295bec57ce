# make demo   .venv, install, train on the built-in digits     make test   .venv, install, tests
# make lint   ruff and pyright     make bench   CPU benchmarks     make clean   remove what the others made
# make crash KILLS=200   programs killed at every step and at random, then run to their end and compared
# Needs python3 >= 3.11 and make; PYTHON=python3.12 chooses another one.

PYTHON ?= python3
KILLS ?= 200
BIN := .venv/bin

.PHONY: demo test lint bench crash clean

demo: .venv/base
	$(BIN)/python train.py

test: .venv/test
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: .venv/test
	$(BIN)/python -m benchmarks.suite

crash: .venv/test
	$(BIN)/python -m tests.crash.harness --kills $(KILLS)

# Each stamp stands for an installed set of packages and is renewed when pyproject.toml changes.
.venv/base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vgg_flax needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/test: .venv/base
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

.venv/dev: .venv/test
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
