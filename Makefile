# Every way to run, check and package Senryu. Each target is one or two commands; scripts/venv does the set-up.
# Options go through ARGS: make serve ARGS="--port 9000", make test ARGS="-k heroku". PYTHON=… chooses the Python.
# Tests run on several processes, a file on one of them, each with one thread for NumPy's products; make test
# ARGS="-n 0 -x" runs them in this one.

PYTHON_OF_VENV := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help serve test test-clients check format build check-wheel fidelity bench lock clean

help:  ## List these targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

# NOTE: exec: Ctrl-C and SIGTERM must reach the server itself, and its exit status is make's.
serve:  ## Install what is missing, fetch the model once, serve on 127.0.0.1:8080.
	@scripts/venv serve
	@exec .venv/bin/senryu serve $(ARGS)

test:  ## Run every test.
	@scripts/venv dev
	@exec env OPENBLAS_NUM_THREADS=1 $(PYTHON_OF_VENV) -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

# NOTE: the SDKs drive the server of .venv from outside: neither environment holds the other's packages.
test-clients:  ## Drive a server with every vendor's SDK, and run docs/clients.md as written.
	@scripts/venv serve
	@scripts/venv clients
	@exec .venv-clients/bin/python -m pytest tests/clients $(ARGS)

check:  ## Lint, formatting, types and the import rules.
	@scripts/venv dev
	$(PYTHON_OF_VENV) -m ruff check .
	$(PYTHON_OF_VENV) -m ruff format --check .
	$(PYTHON_OF_VENV) -m mypy --strict
	$(PYTHON_OF_VENV) -m pytest -q tests/test_architecture.py

format:  ## Rewrite the code as `make check` wants it.
	@scripts/venv dev
	$(PYTHON_OF_VENV) -m ruff check --fix .
	$(PYTHON_OF_VENV) -m ruff format .

# NOTE: both from this tree, not one from the other: the wheel then takes the kernels as scripts/venv has built them.
build:  ## Build dist/senryu-*.whl and the source distribution.
	@scripts/venv dev
	rm -rf dist
	$(PYTHON_OF_VENV) -m build --no-isolation --sdist --wheel

check-wheel: build  ## Install the built wheel into an empty environment and run it.
	scripts/check-wheel

fidelity:  ## Score a running server on STSBenchmark and SciFact, every embedding type.
	@scripts/venv dev
	@exec $(PYTHON_OF_VENV) bench/fidelity.py $(ARGS)

bench:  ## Measure Senryu beside other servers; writes bench/RESULTS.md. ARGS="--data DATA"
	@scripts/venv serve
	@exec $(PYTHON_OF_VENV) bench/compare.py $(ARGS)

lock:  ## Resolve the pins in requirements/ again; ARGS=--upgrade moves them.
	scripts/lock $(ARGS)

clean:  ## Remove both environments, the built kernels, dist and caches. Models, keys and the database stay.
	rm -rf src/senryu/engine/kernels/*.so src/senryu/engine/kernels/.build-*
	rm -rf .venv .venv-clients build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
