# Everything from nothing: each target first makes `.venv` where it does not stand yet. `make help` lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv demo test lint bench docs clean

# The pinned versions were run on 3.11; any later Python that a pinned wheel exists for will do.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
TORCH := torch==2.13.0
CPU_INDEX := https://download.pytorch.org/whl/cpu
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 8

venv: .venv/.done ## make .venv with the package, its development tools and the pinned versions

# Torch comes first and alone, since whatever needs torchvision would otherwise choose the build of torch:
# a wheel of pip's own find-links, else without an NVIDIA driver PyTorch's CPU index, else the default index.
.venv/.torch:
	@test -n "$(PYTHON)" || { echo "PYTHON should name Python 3.11 or later. Found none on the PATH." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@if $(PIP) --dry-run --no-index --no-deps $(TORCH) >/dev/null 2>&1; then \
		echo "torch: local wheel"; $(PIP) $(TORCH); \
	elif ! nvidia-smi >/dev/null 2>&1 && $(PIP) --retries 1 --timeout 20 --index-url $(CPU_INDEX) $(TORCH) 2>/dev/null; then \
		echo "torch: $(CPU_INDEX)"; \
	else \
		echo "torch: default index"; $(PIP) $(TORCH); \
	fi
	@touch $@

.venv/.done: .venv/.torch pyproject.toml constraints.txt
	$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

.venv/.docs: .venv/.done
	$(PIP) -c constraints.txt -e '.[docs]'
	@touch $@

demo: venv ## train two tampered classifiers on the embedded digits, repair them, write the report (three seeds)
	@out=runs/demo; n=2; while [ -e "$$out" ]; do out=runs/demo-$$n; n=$$((n + 1)); done; \
	mkdir -p runs && $(BIN)/isthmus demo --seeds 3 --out "$$out"

# One thread for each worker: two OpenMP teams on two cores wait for each other most of the time.
test: venv ## run the tests and the doctests; `make test ARGS='-k bridge'` runs some
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

lint: venv ## style, format, types, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: venv ## cost of a bridge step and of a scan, as ratios to plain training and plain evaluation
	$(BIN)/python benchmarks/speed.py $(ARGS)

docs: .venv/.docs ## build the pages into site/, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

clean: ## remove what was made, except runs/
	rm -rf .venv site build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
