# make        run the demo (three iterations in the tiny world) and print where the report is
# make test   linters, types and tests
# make evidence   rerun the demo with three seeds and all its arms, and write docs/evidence/tinyworld.md

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
CORES ?= all

.PHONY: demo setup test lint docs evidence clean

demo: setup
	$(BIN)/snakemake --cores $(CORES) --quiet host reason
	@cat results/tinyworld/report.txt

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,loggers,slurm,dev]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow examples/tinyworld/controls.smk
	$(BIN)/snakemake --lint
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

docs: setup
	$(BIN)/python docs/generate.py

evidence: setup
	$(BIN)/python examples/tinyworld/evidence.py --cores $(CORES)

clean:
	rm -rf results .snakemake
