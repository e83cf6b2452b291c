VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3

.PHONY: demo test test-slow coverage mutation lint format docs matrix release-check clean

demo: $(VENV)/.installed  ## train one epoch on MNIST under GradScope, print the summary
	$(BIN)/python examples/mnist.py --activation $(or $(ACTIVATION),relu)

test: $(VENV)/.installed  ## the fast tests, on all cores
	$(BIN)/python -m pytest -m "not slow" -n auto

test-slow: $(VENV)/.installed  ## the tests that train for minutes or drive a browser
	$(BIN)/python -m pytest -m slow

coverage: $(VENV)/.installed  ## which lines and branches no test reaches, on several ranks too; fails under 95 %
	rm -f .coverage .coverage.*
	$(BIN)/python -m coverage run -m pytest -m "not slow" -n auto
	$(BIN)/python -m coverage run -m pytest -m slow tests/ranks tests/cli/test_watch.py
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

mutation: $(VENV)/.installed  ## which faults in statistics, rules and reader no test notices; an hour, or MUTANTS='gradscope.stats*'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[mutation]"
	$(BIN)/mutmut run --max-children $(or $(CHILDREN),2) $(MUTANTS)
	$(BIN)/mutmut results

lint: $(VENV)/.installed  ## ruff and mypy, tests included
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.installed  ## the reference as web pages in docs/_build; every warning is an error
	$(BIN)/python -m sphinx --quiet --builder html --fresh-env --fail-on-warning --keep-going docs docs/_build

matrix: $(VENV)/.installed  ## the fast tests on the oldest and newest versions; CELLS="3.10:oldest" for some of them
	$(BIN)/python .ci/matrix.py $(CELLS)

release-check: $(VENV)/.installed  ## build what would be released, and use it from an empty environment
	$(BIN)/python .ci/release_check.py

clean:
	rm -rf $(VENV) .matrix dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* mutants

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@
