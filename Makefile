# Two commands on a fresh machine with Python 3.11+ and make: `make demo`, `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs bench score clean

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[silicon]" --group dev
	touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/nfp predict h100 mixtral --explain

test: $(VENV)/.dev
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest --nbmake --nbmake-timeout=600 examples

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks -p no:cacheprovider --benchmark-only --benchmark-json=benchmarks/latest.json
	$(BIN)/python benchmarks/summary.py benchmarks/latest.json

# The whole table on NVIDIA's published timings, into docs/validation.md: minutes.
score: $(VENV)/.dev
	$(BIN)/nfp score --dataset silicon --out docs

clean:
	rm -rf $(VENV) dist build docs/_build
