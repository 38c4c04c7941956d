# The front desk. Each recipe is a line or two that calls the real tool; `make help` lists them.

PYTHON ?= python3
ARGS ?=
# Three processes keep two cores busy, for tests of processes wait for the most part; each starts databases of its own, so
# that more of them cost more than they give. Tests take from a millisecond to half a minute: who is done takes over from
# the other.
JOBS ?= 3
PARALLEL := -n $(JOBS) --dist worksteal
SEEDS ?= 2000
FIRST ?= 0
EXECUTIONS ?= 100000

BIN := .venv/bin
COMPILE := CUSTOM_COMPILE_COMMAND='make requirements' $(BIN)/pip-compile --quiet --no-header --generate-hashes \
	--strip-extras --allow-unsafe --no-emit-options --annotation-style=line --build-deps-for=editable
# What a package says of its age comes from the last commit, so that two builds of it are the same bytes.
EPOCH = $(shell git log -1 --format=%ct 2>/dev/null || echo 1700000000)

# Byte code is kept, whatever the environment says: the tests start hundreds of processes, and each would compile anew.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help venv run test image-test conformance faults docs simulate fuzz bench lint format proto man build release-check requirements clean

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

venv: .venv/server.stamp  ## make .venv with the pinned requirements of the server

run: .venv/server.stamp  ## start a server: SQLite under ./data, HTTP on 127.0.0.1:8080; ARGS='--http :80' and so on
	@$(BIN)/goloves serve $(ARGS)

test: .venv/dev.stamp  ## run the whole test suite with coverage; installs the databases that it needs, where it may
	@scripts/test-packages
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered --durations=10 $(ARGS)

conformance: .venv/dev.stamp  ## hold HTTP/1.1 against nginx and a table, HTTP/2 against h2spec, gRPC against other clients
	@scripts/test-packages
	$(BIN)/pytest $(PARALLEL) tests/conformance tests/wire/test_http1.py tests/server/test_http_splits.py $(ARGS)
	$(BIN)/python scripts/h2spec.py

faults: .venv/dev.stamp  ## run every test of faults on real processes: kills, clocks, disks, failovers
	@scripts/test-packages
	$(BIN)/pytest $(PARALLEL) -m '' tests/faults $(ARGS)

image-test: .venv/dev.stamp  ## build the image and run it as its user, read-only; root, Debian's buildah and debootstrap
	$(BIN)/python scripts/image.py

docs: .venv/dev.stamp  ## hold the pages to their word: links, commands, figures, and each block that can run
	@scripts/test-packages
	PYTHONPATH=tests $(BIN)/python scripts/docs.py $(ARGS)

simulate: .venv/dev.stamp  ## play SEEDS=2000 stories of a simulated cluster, from the seed FIRST=0 on
	PYTHONPATH=tests $(BIN)/python -m simulation $(SEEDS) $(FIRST)

fuzz: .venv/dev.stamp  ## feed made-up bytes to each wire format EXECUTIONS=100000 times
	PYTHONPATH=tests $(BIN)/python tests/wire/fuzz.py $(EXECUTIONS)

bench: .venv/bench.stamp  ## measure beside a floor in C and other servers; ARGS=--short to try, ARGS=--help for more
	@scripts/test-packages
	@command -v cc >/dev/null || scripts/apt-install gcc libc6-dev
	@PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

lint: .venv/dev.stamp  ## check style, types, shell scripts and the Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@scripts/checked-by shellcheck .ci/run $(filter-out %.py,$(wildcard scripts/*))
	@scripts/checked-by hadolint Dockerfile

format: .venv/dev.stamp  ## put the code into the project's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

proto: .venv/dev.stamp  ## make what is generated from the .proto files; ARGS=--check only compares
	$(BIN)/python scripts/proto.py $(ARGS)

man: .venv/dev.stamp  ## make the manual pages from the commands; ARGS=--check only compares
	$(BIN)/python scripts/man.py $(ARGS)

build: .venv/dev.stamp  ## build the wheel and the source package into dist/
	rm -rf dist
	SOURCE_DATE_EPOCH=$(EPOCH) $(BIN)/python -m build --no-isolation

release-check: .venv/dev.stamp  ## build twice, compare, and install each package and extra into a clean environment
	$(BIN)/python scripts/release-check.py $(ARGS)

requirements: .venv/dev.stamp  ## renew the pins from pyproject.toml; ARGS=--upgrade takes the newest of everything
	@scripts/oldest-python $(BIN)/python
	$(COMPILE) $(ARGS) --extra=all -o requirements/server.txt pyproject.toml
	$(COMPILE) $(ARGS) --extra=dev -c requirements/server.txt -o requirements/dev.txt pyproject.toml
	$(COMPILE) $(ARGS) --extra=bench -c requirements/dev.txt -o requirements/bench.txt pyproject.toml

clean:  ## remove what these commands made, except data/
	rm -rf .venv .cache build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/%.stamp: requirements/%.txt pyproject.toml scripts/venv
	@scripts/venv $(PYTHON)
	$(BIN)/pip install --quiet --no-deps --require-hashes -r $<
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
