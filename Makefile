# Everything here works on a machine with Python >= 3.11 and make: the first call makes the
# environment (some minutes, several GB), later calls reuse it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# torch, torchvision and timm come from the package index together: builds of them from elsewhere,
# offered by a local wheel folder, do not fit one another.
PIP := PIP_FIND_LINKS= PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip

.PHONY: help install sweep test test-slow faults coverage lint bench docs clean

help:
	@echo "make sweep      install, then run search_spaces/fpn.yaml to its end"
	@echo "make test       install, then ruff, pyright and pytest"
	@echo "make test-slow  the tests that take longer"
	@echo "make faults     real processes killed, hung, starved: the table in docs/reliability.md"
	@echo "make coverage   the tests again, and which lines of hjepa/ none of them reaches"
	@echo "make bench      the benchmarks, whose figures go to docs/performance.md; ONLY=step for one"
	@echo "make docs       write what is written from the code anew: configs/ and tables of docs/"
	@echo "make install    only make the environment; VENV=PATH names another place for it"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[sweep,dev]'
	$(BIN)/python -c 'import timm'
	touch $(STAMP)

sweep: $(STAMP)
	$(BIN)/hjepa-sweep search_spaces/fpn.yaml

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

faults: $(STAMP)
	$(BIN)/python -m pytest -m "slow or not slow" tests/faults

coverage: $(STAMP)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --skip-covered --show-missing

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ONLY)

docs: $(STAMP)
	$(BIN)/python -m hjepa.docs
	$(BIN)/python -m orchestrator.docs
	$(BIN)/python -m orchestrator.cli.completion.write

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
