# `make demo`, `make test` and `make serve` work in a fresh clone with Python 3.11 and make alone: they set up .venv.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PROTOS := $(shell find protos -name '*.proto')
PACKAGES := bases client registry server trainer
SOURCES := $(PACKAGES) demo loadtests tests
# On two cores, two workers with one OpenMP thread each: threads that wait for each other spin.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: install demo serve test lint pytest protos clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	touch $@

demo: $(INSTALLED)
	@$(BIN)/python demo/demo.py

serve: $(INSTALLED)
	@echo 'Ask the base:       $(BIN)/lorry generate "Once upon a time" --max-tokens 40'
	@echo 'Publish an adapter: $(BIN)/lorry push DIR NAME, then $(BIN)/lorry generate -a NAME "…"'
	@echo 'Look inside:        $(BIN)/lorry status, and http://127.0.0.1:9090/metrics'
	@$(BIN)/lorry serve

test: lint pytest

lint: $(INSTALLED)
	$(BIN)/ruff check --quiet $(SOURCES)
	$(BIN)/ruff format --quiet --check $(SOURCES)
	$(BIN)/mypy --no-error-summary
	PATH=$(BIN):$$PATH $(BIN)/python -m tests.lint_protos

pytest: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile -q

# The stubs are committed beside the contract; a test of the lint step fails where they are stale.
protos: $(INSTALLED)
	PATH=$(BIN):$$PATH $(BIN)/python -m grpc_tools.protoc -I protos --python_out=protos --pyi_out=protos \
	  --grpc_python_out=protos --mypy_grpc_out=protos $(PROTOS)

clean:
	rm -rf $(VENV) build dist runs
