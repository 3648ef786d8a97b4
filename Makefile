# Every target makes .venv when it is missing. `make demo` and `make test` are all a fresh machine needs.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet
UV     := .venv-uv/bin/uv
SYSTEM := $(shell uname -s -m)
# For `make lock`: UPGRADE= follows pyproject.toml alone, UPGRADE='--upgrade-package av' renews one.
UPGRADE ?= --upgrade

.PHONY: demo test test-slow test-real test-paper test-lowest mutants lint type bench tables docs lock clean

demo: $(READY)
	$(BIN)/thbench demo

test: $(READY)
	$(BIN)/python -m pytest tests -n 2 --dist worksteal -m "not slow"

# What takes ten seconds or more a test: the shipped weights, several processes, killed runs, every switch.
test-slow: $(READY)
	$(BIN)/python -m pytest tests -n 2 --dist worksteal -m slow

# Further tests, on clips of real people and the papers' texts that may not lie in the repository.
test-real: $(READY)
	@test -n "$(CLIPS)" || { echo "say where the clips are: make test-real CLIPS=folder [PAPERS=folder] [WEIGHTS=folder]"; exit 2; }
	$(BIN)/python -m pytest tests -n 2 --dist worksteal -m "real or papers or weights" --clips "$(CLIPS)" \
		$(if $(PAPERS),--papers "$(PAPERS)") $(if $(WEIGHTS),--weights "$(WEIGHTS)")

# A step, a validation and a generation of everything at paper scale, on the CPU: well over half an hour on two
# cores, and 14 GiB of memory. Data, weights and checkpoints (25 GB) go to PAPER_SCALE, the log to docs/paper-scale.md.
PAPER_SCALE ?= runs/paper-scale
test-paper: $(READY)
	mkdir -p $(PAPER_SCALE)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-$$(nproc)} $(BIN)/python -m pytest tests/paper --scratch $(PAPER_SCALE); \
		passed=$$?; $(BIN)/python -m tests.paper.page $(PAPER_SCALE) docs/paper-scale.md; exit $$passed

# What depends on decoders and libraries, with the lowest versions that pyproject.toml allows.
test-lowest: .venv-lowest/.ready
	.venv-lowest/bin/python -m pytest tests/versions tests/data tests/metrics -n 2 --dist worksteal

# Breaks the code in a copy and sees whether tests fall: make mutants NAMES="noise ema"
mutants: $(READY)
	$(BIN)/python -m tests.mutants $(NAMES)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY)
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks.learning

tables: $(READY)
	$(BIN)/thbench leaderboard

# The documentation as a site, in site/; open site/index.html.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file .mkdocs/mkdocs.yml

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "thbench needs Python 3.11, 3.12 or 3.13: run make PYTHON=python3.11")'
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
ifeq ($(SYSTEM),Linux x86_64)
	$(PIP) --require-hashes --only-binary :all: -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
else
	@echo "NOT LOCKED: requirements.lock is for Linux on x86-64, this is $(SYSTEM). Installing today's versions." >&2
	$(PIP) -e '.[dev,docs]'
endif
	@touch $@

# One lock for Python 3.11, 3.12 and 3.13.
lock: $(UV)
	$(UV) pip compile --quiet --universal --python-version 3.11 \
		--extra dev --extra docs --generate-hashes --only-binary :all: --fork-strategy fewest $(UPGRADE) \
		--custom-compile-command "make lock" pyproject.toml -o requirements.lock

$(UV):
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/python -m pip --disable-pip-version-check install --quiet uv

.venv-lowest/.ready: pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-lowest
	$(UV) pip install --quiet --compile-bytecode --python .venv-lowest --resolution lowest-direct -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-* site build dist *.egg-info
