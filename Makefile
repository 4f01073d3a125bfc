# tiltline: the menu. Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CORES ?= $(shell nproc)

.PHONY: help demo test gpu check docs bench clean setup

help:
	@echo "make demo    simulate two tilt series and process them from movies to an average (about 4 minutes on 2 cores)"
	@echo "make test    run the tests"
	@echo "make gpu     on a machine with a GPU and CuPy: the same tests of kernels and steps there, and its speed beside the CPU's"
	@echo "make check   style, and generated files in sync with their source"
	@echo "make docs    rewrite the generated files: config/README.md, config/schema.json, environment.yml"
	@echo "make bench   benchmarks: speed ratios against plain code, measured in one run"
	@echo "make clean   remove the demo's results"

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tiltline needs Python 3.11 or newer; set PYTHON=..."; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: installing python3-venv"; rm -rf $(VENV); \
	  $$(command -v sudo) apt-get update -q && $$(command -v sudo) apt-get install -qy python3-venv && $(PYTHON) -m venv $(VENV); }
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(BIN)/snakemake --cores $(CORES) --quiet rules host --configfile config/config.yaml
	@echo "open results/report.html"

test: $(READY)
	$(BIN)/python -m pytest -q
	$(BIN)/python -m pytest -q tests/steps --device stand-in

gpu: $(READY)
	$(BIN)/python -m pytest -q tests/parity
	$(BIN)/python -m pytest -q tests/steps --device cuda
	$(BIN)/python benchmarks/bench_gpu.py

check: $(READY)
	$(BIN)/ruff check src tests workflow/scripts benchmarks tools
	$(BIN)/python tools/sync.py --check

docs: $(READY)
	$(BIN)/python tools/sync.py

bench: $(READY)
	for script in benchmarks/bench_kernels.py benchmarks/bench_motion.py; do $(BIN)/python $$script || exit 1; done

clean:
	rm -rf results .snakemake
