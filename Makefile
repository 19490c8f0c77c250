# Every target but gpu sets up what it needs; a machine with Python 3.11+ and make is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= results
PROCESSES ?= 2

.PHONY: help fit stages test lint format bench gpu clean
.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# one stamp per extra: .venv/.recipes, .venv/.test, .venv/.lint
$(VENV)/.%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; name one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@

fit: $(VENV)/.recipes ## the main job: mHC against HC and the plain residual, then results/mhc_vs_hc/report.md
	$(BIN)/python -m recipes.fit --config ablations/mhc_vs_hc.yaml

stages: $(VENV)/.recipes ## the three stages of DeepSeek-OCR 2 in miniature, one after the other
	@for stage in 1 2 3; do \
		$(BIN)/python -m recipes.fit --config ablations/ocr2_tiny_stage$$stage.yaml || exit; \
	done

test: $(VENV)/.test ## the whole suite, on CPU
	$(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile

lint: $(VENV)/.lint ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/.lint ## rewrite in the house's layout
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/.test ## what training, loading, reading, evaluating and prefix attention take, into results/bench/
	$(BIN)/python -m recipes.bench
	$(BIN)/python -m encoders.bench

gpu: ## kernel tests and benchmark on an NVIDIA GPU; needs torch, triton, pytest, numpy and nothing else
	$(PYTHON) -m pytest tests/kernels -m gpu -rs
	@if command -v compute-sanitizer >/dev/null; then \
		compute-sanitizer --tool memcheck --error-exitcode 1 $(PYTHON) -m pytest tests/kernels/test_triton_determinism.py -m gpu -q -k sanitized; \
	else echo "compute-sanitizer is not on the PATH: memory accesses were not checked"; fi
	$(PYTHON) -m kernels.bench

clean: ## forget the virtual environment
	rm -rf $(VENV)
