# Every task of the repository. `make` prints this list; CI jobs and hooks call the same targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
S ?=
CLEAN ?=
# More arguments for pytest: make test ARGS="-k money -x"
ARGS ?=

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-12s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup servers test-tools
setup: ## .venv with every locked dependency
	@$(PYTHON) deploy/local/bootstrap.py

servers: # the environment, and the programs of RabbitMQ, PostgreSQL, Redis and nginx
	@$(PYTHON) deploy/local/bootstrap.py --servers

.PHONY: embedding
embedding: ## the local embedding model (83 MB), for routes with a semantic cache
	@$(PYTHON) deploy/local/bootstrap.py --embedding

.PHONY: compiled
compiled: ## llm-router's hot modules as machine code, as in images; `make up` uses them while they fit the sources
	@$(PYTHON) deploy/local/bootstrap.py --compiler
	@$(BIN)/python -m kairos_testkit.compiled

test-tools: # the same, and what only tests run: promtool, a browser
	@$(PYTHON) deploy/local/bootstrap.py --tests

# --- the suite on this machine ---
.PHONY: up down status logs restart clean demo
up: servers ## start everything here, from nothing; again: whatever is missing
	@$(BIN)/python -m kairos_testkit.up

down: setup ## stop everything; data stays
	@$(BIN)/python -m kairos_testkit.local_commands down

status: setup ## a line per process; fails when one is not well
	@$(BIN)/python -m kairos_testkit.local_commands status

logs: setup ## follow the logs, or one: make logs S=llm-router
	@$(BIN)/python -m kairos_testkit.local_commands logs $(S)

restart: setup ## restart the services, or one program: make restart S=rabbitmq
	@$(BIN)/python -m kairos_testkit.local_commands restart $(S)

clean: setup ## stop and delete all local data: make clean CLEAN=yes
	@KAIROS_CLEAN=$(CLEAN) $(BIN)/python -m kairos_testkit.local_commands clean

demo: up ## a message through Telegram, one through web chat: reply, cost, trace, audit
	@$(BIN)/python tests/e2e/demo.py

# --- tests ---
.PHONY: test test-command test-unit test-compiled chaos bench bench-router bench-cap platform
# What `make test` and CI run. tests/platform and tests/bench have targets of their own. Each worker has servers
# and a suite of its own; files stay whole, because tests of one file share them.
WORKERS ?= 2
COMPILED := $(CURDIR)/.kairos/compiled
TESTS := $(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not chaos" --ignore=tests/platform --ignore=tests/bench --cov --cov-report=term:skip-covered

test: test-tools ## every test on real servers, with coverage
	@$(TESTS) $(ARGS)

test-command: test-tools # for .ci/run, which becomes that command to keep its exit code
	@echo '$(TESTS)'

test-unit: setup ## the tests that need no server
	@$(BIN)/pytest -m "not servers and not stack and not chaos and not browser" --ignore=tests/platform --ignore=tests/bench $(ARGS)

test-compiled: test-tools compiled ## llm-router's tests on its hot modules as machine code
	@PYTHONPATH=$(COMPILED) $(BIN)/pytest services/llm-router -n $(WORKERS) --dist loadfile -m "not chaos and not interpreted" $(ARGS)

chaos: servers ## kill processes at random under load; SEED=... repeats a run
	@$(BIN)/pytest tests/chaos -m chaos $(ARGS)

bench: servers compiled ## baseline figures, written to docs/benchmarks.md
	@$(BIN)/python tests/bench/run.py $(ARGS)

bench-router: servers compiled ## the router beside its peers, on one upstream; written to docs/benchmarks.md
	@$(BIN)/python tests/bench/router.py $(ARGS)

bench-cap: servers ## what budgets let through, ours and LiteLLM Proxy's; written to docs/benchmarks.md
	@$(BIN)/python -m tests.bench.cap $(ARGS)

platform: servers ## build the images and run them on a Docker engine
	@$(BIN)/pytest tests/platform $(ARGS)

# --- checks ---
.PHONY: lint types format docs
lint: setup ## ruff, import contracts, workflow, YAML and Dockerfile checks, generated pages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/yamllint -d '{extends: relaxed, rules: {line-length: disable}}' docker-compose*.yml deploy gitops .github
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/zizmor --offline --quiet .github/workflows
	@$(BIN)/python -m kairos_contracts.document --check .
	@$(BIN)/python -m kairos_telemetry.document --check .
	@if [ -d services/console/node_modules ]; then cd services/console && PATH="$$PWD/../../$(BIN):$$PATH" npm run --silent lint; fi

types: setup ## mypy, and tsc for the console
	@$(BIN)/mypy
	@if [ -d services/console/node_modules ]; then cd services/console && PATH="$$PWD/../../$(BIN):$$PATH" npm run --silent types; fi

format: setup ## format and fix what a tool can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: setup ## write the generated pages
	@$(BIN)/python -m kairos_contracts.document .
	@$(BIN)/python -m kairos_telemetry.document .

# --- delivery ---
.PHONY: lock images
lock: setup ## lock every dependency again, with hashes and without addresses
	@requirements/lock.sh

images: ## build every image; VERSION=... names it
	@for pair in bot-worker:5050 llm-router:5051 budget-analytics:5052 auth-audit:5053 observability:5054; do \
	  docker build --target service --build-arg SERVICE=$${pair%:*} --build-arg PORT=$${pair#*:} \
	    --tag kairos-$${pair%:*}:$${VERSION:-dev} . ; \
	done
	@docker build --target console --tag kairos-console:$${VERSION:-dev} .
