# `make` lists what there is. Every target does its own set-up, and can be run again at once, after an interruption too.

# Python 3.11, 3.12 or 3.13. If you name none, an existing .venv is kept, whichever of them it was made of.
PYTHON ?= python3
ANY_PYTHON := $(if $(filter file,$(origin PYTHON)),--any-python)
BIN := .venv/bin
# Byte code is kept whatever the environment says: without it each start of the controller takes 6 s instead of 2.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/pytest

# Migrations of every kind that a scenario makes.
RUNS ?=

.DEFAULT_GOAL := help
.PHONY: help install lint unit test lab-setup demo paper paper-publish bench bench-growth bench-overlay faults soak busy docs lock audit wheel clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## .venv with coat_ryu (editable), Ryu 4.34 and the tools; PYTHON=python3.12 chooses the Python
	@$(PYTHON) tools/make_venv.py $(ANY_PYTHON)

lint: install ## ruff, mypy, import-linter
	$(BIN)/ruff check --quiet --output-format concise
	$(BIN)/ruff format --quiet --check
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports | sed -n '/^Contracts$$/,$$p'

unit: install ## the tests that start no process
	$(PYTEST) tests/unit

test: lint lab-setup ## everything: lint, unit, switch, install and lab tests (the lab tests need root)
	$(BIN)/python tools/run_tests.py

# Only root can make the lab's root file system; the lab tests say themselves that they are skipped.
lab-setup: install ## what the lab's hosts are made of: their root file system and the images
	@if [ "$$(id -u)" -eq 0 ]; then ./coat-lab setup; else echo "lab-setup: not root, so no lab"; fi

demo: install ## three hosts, a migration under iperf3 and sockperf, a table and plots in results/demo; RUNS=n
	$(BIN)/python -m mininet_scenarios.demo $(RUNS)

bench: install ## disruption beside what Podman alone takes on one host, seven workloads in turn; RUNS=n, ONLY='WORKLOAD ...'
	$(BIN)/python -m mininet_scenarios.bench $(RUNS) $(if $(ONLY),--only $(ONLY))

bench-growth: install ## disruption against memory size and number of connections; RUNS=n
	$(BIN)/python -m mininet_scenarios.growth $(RUNS)

paper: lab-setup ## the paper's experiments and more, 50 runs each; RUNS=n, ONLY='NAMES', TOPOLOGY=FILE for real hosts, LINKS=any
	$(BIN)/python -m mininet_scenarios.paper $(RUNS) $(if $(ONLY),--only '$(ONLY)') \
		$(if $(TOPOLOGY),--topology '$(TOPOLOGY)') $(if $(LINKS),--links '$(LINKS)') $(if $(RESULTS),--results '$(RESULTS)')

paper-publish: install ## the last report of make paper and its figures into docs/paper/
	$(BIN)/python -m mininet_scenarios.paper --publish

bench-overlay: install ## one cut-over and a full resynchronisation at 10, 100 and 400 switches; RUNS=n
	@if [ "$$(id -u)" -eq 0 ]; then ./coat-lab setup; fi
	$(BIN)/python -m mininet_scenarios.bench_overlay $(RUNS)

faults: install ## every step of every mode broken in every way, under live connections; ONLY='STEP/MODE/KIND', RUNS=n
	$(BIN)/python -m mininet_scenarios.faults $(RUNS) $(if $(ONLY),--only '$(ONLY)')

soak: install ## one connection through 200 migrations, byte by byte; RUNS=n
	$(BIN)/python -m mininet_scenarios.soak $(RUNS)

busy: install ## web servers under many new connections a second move there and back; RUNS=n, RATE=n, ONLY='WORDS'
	$(BIN)/python -m mininet_scenarios.busy $(RUNS) $(if $(RATE),--rate $(RATE)) $(if $(ONLY),--only '$(ONLY)')

docs: install ## the documents as a site, in site/
	$(BIN)/mkdocs build --strict --quiet

lock: install ## requirements/*.txt anew from setup.cfg: exact versions with hashes, for every Python that is supported
	$(BIN)/python tools/supply.py lock

audit: install ## known vulnerabilities in what is locked, where their list can be had
	$(BIN)/python tools/supply.py audit

wheel: install ## dist/coat_ryu-VERSION.whl, and beside it an SBOM (CycloneDX) of what it is installed with
	$(BIN)/python tools/supply.py wheel

clean: ## remove .venv and what the tools leave here; results/ stays
	rm -rf .venv build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
