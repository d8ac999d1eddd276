# make demo: install, train on the embedded pictures, evaluate.   make test: lint, types, tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
ifdef UV
INSTALL := uv pip install --python $(BIN)/python
MAKE_VENV := uv venv --allow-existing --python $(PYTHON) $(VENV)
else
INSTALL := $(BIN)/python -m pip install
MAKE_VENV := $(PYTHON) -m venv $(VENV)
endif

.PHONY: demo test lint check install clean help

help:
	@echo "make demo   train and evaluate on the embedded pictures (about 5 minutes on 2 cores)"
	@echo "make test   lint, type checks and tests"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "lgrep needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Type make PYTHON=python3.12"; exit 1; }
	$(MAKE_VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[cpu]' -c constraints.txt
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(INSTALL) -e '.[cpu,test]' -c constraints.txt
	@touch $@

install: $(VENV)/.run

demo: $(VENV)/.run
	$(BIN)/python train.py +experiment=stablerep_emoji
	$(BIN)/python evaluate.py 'model=[runs/stablerep_emoji,runs/stablerep_emoji:both]'

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# large pages where the system gives them; elsewhere the variable says nothing
check: $(VENV)/.test
	OMP_NUM_THREADS=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/python -m pytest -n auto --dist worksteal

# lint and types beside the tests
test: $(VENV)/.test
	@$(MAKE) --no-print-directory -j2 lint check

clean:
	rm -rf $(VENV) build dist
