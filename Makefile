# Every task sets up what it needs; the second time it is quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the tasks
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

# torch is asked for by its exact version, so that pip takes the CPU build where one is offered.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[suite]' --group dev
	@touch $@

.PHONY: install
install: $(INSTALLED) ## set up .venv with everything, pinned by constraints.txt

.PHONY: serve
serve: $(INSTALLED) ## run the whole suite and show a command that draws a picture
	@$(BIN)/python -m services

.PHONY: test
test: $(INSTALLED) ## run the tests
	@$(BIN)/python -m pytest

.PHONY: fuzz
fuzz: $(INSTALLED) ## ask the gateway, and each door for images, what nobody thought of
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000} $(BIN)/python -m pytest tests/gateway/test_fuzzing.py
	@for door in url base64 data_url multipart json image size text; do \
	  PYTHONPATH=. $(BIN)/python -m tests.fuzzing.doors $$door $${FUZZ_SECONDS:-60} || exit 1; done

.PHONY: chaos
chaos: $(INSTALLED) ## kill processes at any moment, and check what survives
	@$(BIN)/python -m tests.chaos --rounds $${ROUNDS:-50} --seed $${SEED:-1} \
		--database $${DATABASE:-sqlite} --real-rounds $${REAL_ROUNDS:-2} $${REPORT:+--report $$REPORT}

.PHONY: clients
clients: ## fetch the clients for Node that the tests call
	@npm install --prefix tests/clients --no-audit --no-fund --no-package-lock

.PHONY: lint
lint: $(INSTALLED) ## check style, types and protos
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python protos/compile.py lint
	$(BIN)/python protos/compile.py breaking

.PHONY: protos
protos: $(INSTALLED) ## write the stubs anew from the protos
	$(BIN)/python protos/compile.py stubs

.PHONY: bench
bench: $(INSTALLED) ## measure what benchmarks/README.md claims
	@$(BIN)/python -m benchmarks

.PHONY: lock
lock: $(INSTALLED) ## write constraints.txt anew from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt
