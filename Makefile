# Everything that a developer or an operator types. `make help` lists it.
# Only python3 and make are needed: uv, and from uv.lock everything else, is put into .build and .venv.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo demos serve test test-chaos fuzz check pytest generate code docs checkgenerate bench lock wheel-test clean

UV := UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv .build/uv/bin/uv
RUN := .venv/bin
PROTOS := $(wildcard protos/dragoman/v1/*.proto)
TEST_WORKERS ?= 2
ARGS ?=

help: ## Show this list
	@printf 'Dragoman: Agno agents over typed gRPC streams.\n\n'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@printf '\nExtra arguments go in ARGS, for example: make serve ARGS="--port 6000"\n'

# Two stamps, so that the demo need not wait for tools that only developers use.
.venv/.server: pyproject.toml uv.lock .ci/uv
	@.ci/uv
	@echo "installing Dragoman into .venv"
	@$(UV) sync --quiet --frozen --inexact --no-dev --extra server
	@touch $@

.venv/.dev: pyproject.toml uv.lock .ci/uv
	@.ci/uv
	@echo "installing Dragoman and the developers' tools into .venv"
	@$(UV) sync --quiet --frozen --extra server --extra testing
	@touch $@ .venv/.server

demo: .venv/.server ## Start a server and stream real runs from it: no key, no database needed (Claude with ANTHROPIC_API_KEY)
	@$(RUN)/dragoman demo $(ARGS)

demos: .venv/.server ## Play all demonstrations of examples/demos, each with a table and checks
	@$(RUN)/python -m examples.demos $(ARGS)

serve: .venv/.server ## Serve the example agents on 127.0.0.1:50051
	@$(RUN)/dragoman serve --agents examples.agents:agents $(ARGS)

test: check pytest demo ## Everything that must pass: checks, tests (real MariaDB included), the demo

pytest: .venv/.dev ## The tests alone; ARGS="-k name" picks some
	@$(RUN)/pytest -n $(TEST_WORKERS) --dist worksteal $(ARGS)

test-chaos: .venv/.dev ## Kill, stop and cut off servers and databases under load: takes minutes, needs haproxy; ARGS as for pytest
	@$(RUN)/pytest tests/chaos $(ARGS)

fuzz: .venv/.dev ## Ask every method with many more evil and damaged requests than the tests do, others each time: takes an hour
	@$(RUN)/pytest -n $(TEST_WORKERS) tests/hostile --hypothesis-profile long --timeout 0 $(ARGS)

check: .venv/.dev checkgenerate ## Format, lint, types, import rules, protos
	@$(RUN)/ruff format --check --quiet .
	@$(RUN)/ruff check --quiet .
	@$(RUN)/mypy
	@$(RUN)/lint-imports --no-cache
	@$(RUN)/buf lint
	@.ci/buf-breaking
	@$(UV) lock --check --quiet

# The directory that generated code is written to; checkgenerate writes elsewhere and compares.
GENERATED := generated

generate: code docs ## Rebuild generated/ from protos/, and what of docs/ is generated

code: .venv/.dev
	@mkdir -p $(GENERATED)/python
	@PATH=$(CURDIR)/.venv/bin:$$PATH $(RUN)/python -m grpc_tools.protoc -Iprotos \
		--python_out=$(GENERATED)/python --mypy_out=quiet:$(GENERATED)/python $(PROTOS)
	@PATH=$(CURDIR)/.venv/bin:$$PATH $(RUN)/python -m grpc_tools.protoc -Iprotos \
		--grpc_python_out=$(GENERATED)/python --mypy_grpc_out=quiet:$(GENERATED)/python $(filter %_service.proto,$(PROTOS))
	@touch $(GENERATED)/python/dragoman/v1/__init__.py $(GENERATED)/python/dragoman/v1/py.typed

docs: .venv/.dev ## Rebuild docs/events.md, docs/configuration.md and the picture of the tables from what they are made of
	@$(RUN)/python -m docs.generate

checkgenerate: .venv/.dev ## Fail when generated/ or docs/ is not what protos/, settings and tables give
	@rm -rf .build/generated
	@$(MAKE) --no-print-directory code GENERATED=.build/generated
	@diff -r -x __pycache__ .build/generated/python generated/python \
		|| { echo "generated/ differs from protos/: run make generate" >&2; exit 1; }
	@$(RUN)/python -m docs.generate --check

bench: .venv/.dev ## Measure CPU and bytes per event beside peers
	@$(RUN)/python -m bench $(ARGS)

wheel-test: .venv/.dev ## Build the wheel and try it in an empty environment, with and without the server extra
	@.ci/wheel-test

lock: ## Refresh uv.lock from pyproject.toml
	@.ci/uv
	@$(UV) lock

clean: ## Remove everything that was built
	rm -rf .venv .build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
