# The newest tested Airflow; another one: make test AIRFLOW=3.2.2
AIRFLOW ?= 3.3.2
CONSTRAINTS := constraints/airflow-$(AIRFLOW).txt
PYTHON ?= python3
VENV := .venv-$(AIRFLOW)
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test pythons test-oldest selection pictures test-cluster bench chaos lint types unit e2e constraints clean

help:
	@echo "make demo [KEEP=1]          native and streamed expansion of a real data set, side by side"
	@echo "make test [AIRFLOW=$(AIRFLOW)]  lint, types, unit, property and end-to-end tests"
	@echo "make pythons                unit and property tests on each of Python 3.10 to 3.13 that there is"
	@echo "make test-oldest            what depends most on Airflow's own pages, API and database, on Airflow 3.2.2"
	@echo "make test-cluster           end-to-end tests with Celery, Redis, Postgres, object storage (half an hour)"
	@echo "make bench                  streaming measured beside native expansion (about an hour)"
	@echo "make chaos [CHAOS_SEED=n]   processes die while streams run; every item is counted (about two hours)"
	@echo "make lint | types | unit | e2e   one part of make test"
	@echo "make pictures               the README's pictures of the pages, taken in a browser"
	@echo "make constraints            resolve the constraints files anew"

$(READY): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python -m deferred_expand.demo $(if $(KEEP),--keep)

test: lint types unit e2e

pythons: $(READY)
	$(BIN)/python -m tests.pythons $(VENV)

# The oldest Airflow that is supported.
test-oldest:
	$(MAKE) selection AIRFLOW=3.2.2

selection: $(READY)
	$(BIN)/python -m pytest tests/unit/test_columns.py tests/unit/test_control.py tests/unit/test_groups.py \
	  tests/unit/test_pages.py tests/unit/test_roles.py tests/unit/test_stream_records.py tests/e2e/test_pages.py

pictures: $(READY)
	$(BIN)/python -m tests.pictures

test-cluster: $(READY)
	$(BIN)/python -m pytest tests/e2e --celery

chaos: $(READY)
	$(BIN)/python -m tests.chaos

bench: $(READY)
	$(BIN)/python -m benchmarks

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo --no-cache

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/python -m pytest tests/unit tests/property

e2e: $(READY)
	$(BIN)/python -m pytest tests/e2e -m "not long"

# Versions only: what an index serves them from is each machine's own matter.
constraints: $(READY)
	for version in 3.2.2 3.3.2; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --upgrade --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links --all-extras --no-emit-package deferred-expand \
	    --output-file constraints/airflow-$$version.txt \
	    pyproject.toml constraints/airflow-$$version.in || exit 1; \
	done

clean:
	rm -rf .venv-* .mypy_cache .pytest_cache .ruff_cache .hypothesis
