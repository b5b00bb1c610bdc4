# Two commands do everything: `make demo` runs the main job, `make test` passes the tests.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# KServe's client requires an older protobuf, so a test runs it in an environment of its own.
KSERVE := .venv/kserve/.ready

.PHONY: help setup demo test chaos fuzz bench bench-real bench-serving bench-edge bench-endurance check lint types protos docs format clean

help: ## Show these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

setup: $(READY) ## Create .venv with everything, at the versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@# venv's own pip may be too old to resolve this in reasonable time.
	$(BIN)/python -m pip install --quiet --upgrade pip==26.3
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## Train, score and search on tile, leather and grid (DATA=path: your images; FULL=1: longer)
	$(BIN)/blemish demo --output demo-output $(if $(DATA),--data "$(DATA)") $(if $(FULL),--full)

$(KSERVE): tests/integration/kserve-constraints.txt
	@test -x .venv/kserve/bin/python || $(PYTHON) -m venv .venv/kserve
	.venv/kserve/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

test: $(READY) $(KSERVE) ## Run every test, two files at a time
	@# After a crash, xdist with restarts waits for ever for the other tests of that file.
	$(BIN)/pytest -n 2 --dist loadfile --max-worker-restart 0

chaos: $(READY) ## Inject faults into a running stack and check every job (ROUNDS=24; PAGE=1: keep the table)
	$(BIN)/python -W ignore -m tests.chaos --rounds $(or $(ROUNDS),24) --minutes $(or $(MINUTES),60) \
	  $(if $(SEED),--seed $(SEED)) $(if $(PAGE),--page)

fuzz: $(READY) ## Fuzz every entry point of hostile input (MINUTES=20; KEEP=1: add the inputs found to the corpus)
	$(BIN)/python -W ignore -m tests.fuzz --minutes $(or $(MINUTES),20) $(if $(KEEP),--keep)

bench: $(READY) ## Run every benchmark without real images and write docs/benchmarks.md (minutes each)
	@set -e; for file in $(filter-out %/bench_bank_limit.py %/bench_edge.py %/bench_gpu.py %/bench_real.py %/bench_efficientad.py %/bench_thresholds.py %/bench_outlines.py %/bench_small_defects.py,$(wildcard tests/benchmarks/bench_*.py)); do \
	  echo "## $$file"; name=$$(basename "$$file" .py); \
	  OMP_WAIT_POLICY=PASSIVE $(BIN)/python -W ignore -m "tests.benchmarks.$$name"; echo; done

bench-serving: $(READY) ## Measure streams and unary calls against the same frames without a server
	$(BIN)/python -W ignore -m tests.benchmarks.bench_serving

bench-edge: $(READY) ## Compare footprint and speed with an older commit (BEFORE=8d3c780; QUICK=1: shorter rows)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -W ignore -m tests.benchmarks.bench_edge \
	  $(if $(BEFORE),--before "$(BEFORE)") $(if $(QUICK),--quick)

bench-real: $(READY) ## Judge the variants of detectors on real images (DATA=path; hours, resumable with CACHE=path)
	@test -n "$(DATA)" || { echo "set DATA to a folder of sets in MVTec AD's layout"; exit 2; }
	$(BIN)/python -W ignore -m tests.benchmarks.bench_real "$(DATA)" $(if $(CACHE),--cache "$(CACHE)") $(OPTIONS)

bench-endurance: $(READY) ## Measure overload, idle and stuck clients, and long steady load (20 minutes)
	$(BIN)/python -W ignore -m tests.benchmarks.bench_endurance

check: lint types test ## Run everything that a change must pass: style, import rules, types, tests

lint: $(READY) ## Check style, import rules, the contract and the generated reference
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/buf lint protos
	@# Only compatible changes once an RPC has landed.
	@if git cat-file -e main:protos/blemish/v1/inspection.proto 2>/dev/null; then \
	  $(BIN)/buf breaking protos --against '.git#branch=main,subdir=protos'; \
	else echo "buf breaking: no main branch here to compare with"; fi

types: $(READY) ## Check types, strictly
	$(BIN)/mypy

protos: $(READY) ## Write the stubs from the .proto files
	$(BIN)/python protos/generate.py

docs: $(READY) ## Write docs/reference/ from the code
	$(BIN)/python docs/generate.py

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv and what tools and demos left behind
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis demo-output
