# Every target makes .venv when it is missing. `make demo` and `make test` are all a fresh machine needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test mutants lint type bench tables clean

demo: $(READY)
	$(BIN)/thbench demo

test: $(READY)
	$(BIN)/python -m pytest tests -n 2 --dist worksteal

# Breaks the code in a copy and sees whether tests fall: make mutants NAMES="noise ema"
mutants: $(READY)
	$(BIN)/python -m tests.mutants $(NAMES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python benchmarks/learning.py

tables: $(READY)
	$(BIN)/thbench leaderboard

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else "thbench needs Python 3.11 or 3.12: run make PYTHON=python3.11")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
