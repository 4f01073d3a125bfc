# tiltline: the menu. Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CORES ?= $(shell nproc)

.PHONY: help demo test gpu check docs bench faults kills clean setup

help:
	@echo "make demo    simulate two tilt series and process them from movies to an average (about 4 minutes on 2 cores)"
	@echo "make test    run the tests"
	@echo "make gpu     on a machine with a GPU and CuPy: tests and speed there, nine minutes, into gpu_check/summary.md"
	@echo "make check   style, and generated files in sync with their source"
	@echo "make docs    rewrite the generated files: config/README.md, config/schema.json, environment.yml"
	@echo "make bench   every step beside the least time it could take here, kernels beside plain code, ratios of one run"
	@echo "make faults  damaged files of every format, 150 each, and what becomes of them (ten minutes)"
	@echo "make kills   small runs killed at random moments and on full disks: all finish, with the same files (an hour)"
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
	$(BIN)/python benchmarks/gpu_check.py --out gpu_check

check: $(READY)
	$(BIN)/ruff check src tests workflow/scripts benchmarks tools
	$(BIN)/python tools/sync.py --check

docs: $(READY)
	$(BIN)/python tools/sync.py

bench: $(READY)
	for script in bench_steps bench_kernels bench_motion; do $(BIN)/python benchmarks/$$script.py || exit 1; done

faults: $(READY)
	$(BIN)/python benchmarks/faults.py --docs

kills: $(READY)
	$(BIN)/python benchmarks/kills.py

clean:
	rm -rf results .snakemake
