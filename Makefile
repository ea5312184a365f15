# One word per action; everything lives in this checkout (.venv, build, demo-cache), nothing needs root.
# The first run installs from PyPI; later runs install only what changed in pyproject.toml, and need no network.

VENV := .venv
PY := $(VENV)/bin/python
DEMO_DIR ?= demo-cache
WORKERS ?= auto
TESTS ?= tests
PYTEST_ARGS ?=
# Where plain mode (no compiled core) is another way through the code; and of that, what proves it in about a minute.
PLAIN_TESTS ?= $(addprefix tests/,cache cli e2e engine native real)
PLAIN_CORE := $(addprefix tests/cache/test_,happy.py resume.py faults.py retention.py trust.py) \
  $(addprefix tests/e2e/test_,happy.py integrity.py checks.py stopped.py sharing.py validators.py \
    faults.py::test_healed_in_pairs kill.py::test_ctrl_c_at_the_command_line)
TORTURE_TESTS ?= $(addprefix tests/,torture fuzz e2e/test_bombs.py trust/test_tenancy_model.py trust/test_tenancy_matrix.py)
BENCH_ARGS ?=

NATIVE_SOURCES := $(shell find fetcher/_native -name '*.pyx' -o -name '*.pxd' -o -path '*/core/*.[ch]' 2>/dev/null)
PYTEST := $(PY) -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)
PIP := $(PY) -m pip --disable-pip-version-check --no-input --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-plain torture check bench bench-full bench-compare base-is-given sanitize clean

help:
	@echo "make demo        set up, then a market's list and a job from embedded origins, and again as a hit (450 MB in $(DEMO_DIR))"
	@echo "make test        all tests this machine allows; lists by name what was not run (FETCHER_TEST_ALL=1: that fails)"
	@echo "make test-plain  in plain mode, the tests for which the mode matters (of FETCHER_TEST_ALL=1 a part of them is part)"
	@echo "make torture     at length: power cuts, kills, random walks, fuzzing (needs root; docs/TORTURE.md)"
	@echo "make check       formatting, ruff, mypy, import floors"
	@echo "make bench       numbers against what you use now, in a quarter of an hour (BENCH_ARGS='--help' for choices)"
	@echo "make bench-full  everybody, everything, large: the better part of an hour"
	@echo "make bench-compare BASE=<revision>  two revisions of this project in one run: what has moved"
	@echo "make sanitize    the native core under AddressSanitizer and UBSan"
	@echo "make clean       remove what was built and the demo's files; keeps $(VENV)"

# --- set-up ----------------------------------------------------------------------------------------------------------

# An environment whose interpreter is gone (an upgrade of the system) is made anew.
ifneq ($(shell $(PY) -c 'import pip; print("usable")' 2>/dev/null),usable)
$(shell rm -f $(VENV)/.made $(VENV)/.dependencies $(VENV)/.installed $(VENV)/.test-dependencies $(VENV)/.bench-dependencies)
endif

# Any interpreter from 3.11 on that can make environments. As root the system's own come first: tests run the program as
# an ordinary user too, who can't see into /root. PYTHON=… overrides.
define make_environment
usable() { "$$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }; \
system=; if [ "$$(id -u)" = 0 ]; then system=/usr/local/bin:/usr/bin:; fi; \
found=; \
for path in "$$system$$PATH" "$$PATH"; do for name in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
  candidate=$$(PATH="$$path" command -v "$$name") || continue; \
  if [ -z "$$found" ] && usable "$$candidate"; then found=$$candidate; fi; \
done; done; \
if [ -z "$$found" ]; then \
  echo "No Python 3.11 or newer that can make environments was found." >&2; \
  echo "hint: on Debian 12 or newer: apt-get install -y git make gcc python3 python3-dev python3-venv" >&2; exit 1; \
fi; \
echo "making $(VENV) with $$found"; "$$found" -m venv --clear $(VENV)
endef

# Requirements as pip reads them, from the one place that holds them: list(key of pyproject.toml, …).
requirements = $(PY) -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print("\n".join($(1)))'

$(VENV)/.made:
	@if ! $(PY) -c 'import pip' >/dev/null 2>&1; then $(make_environment); fi
	@touch $@

$(VENV)/.dependencies: pyproject.toml $(VENV)/.made
	@echo "installing dependencies"
	@$(call requirements,p["build-system"]["requires"] + p["project"]["dependencies"]) > $(VENV)/dependencies.txt
	@$(PIP) install -r $(VENV)/dependencies.txt
	@touch $@

# Without a compiler this succeeds too, in plain mode; describe() says which of the two it is.
$(VENV)/.installed: $(VENV)/.dependencies setup.py $(NATIVE_SOURCES)
	@echo "building and installing fetcher (editable)"
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(PY) -c 'from fetcher import _native; print("hashing core:", _native.describe())'
	@touch $@

$(VENV)/.test-dependencies: pyproject.toml $(VENV)/.made
	@echo "installing what the tests need"
	@$(call requirements,p["project"]["optional-dependencies"]["test"]) > $(VENV)/test-dependencies.txt
	@$(PIP) install -r $(VENV)/test-dependencies.txt
	@touch $@

$(VENV)/.bench-dependencies: pyproject.toml $(VENV)/.made
	@echo "installing rivals"
	@$(call requirements,p["project"]["optional-dependencies"]["bench"]) > $(VENV)/bench-dependencies.txt
	@if $(PIP) install -r $(VENV)/bench-dependencies.txt; then touch $@; \
	else \
		echo "one by one: a rival that can't be had is missing, and the others are measured" >&2; \
		while read -r one; do \
			$(PIP) install "$$one" || echo "not installed: $$one" >&2; \
		done < $(VENV)/bench-dependencies.txt; \
	fi

# --- actions ---------------------------------------------------------------------------------------------------------

demo: $(VENV)/.installed
	@echo "demo: a market's list and a job, a few hundred MB from embedded origins, then a hit; all files in $(DEMO_DIR)"
	@$(PY) -m fetcher.testing.demo_run --directory $(DEMO_DIR)

# Everything is both modes. The native one comes second, and its closing lines last.
ifeq ($(FETCHER_TEST_ALL) $(TESTS),1 tests)
PLAIN_FIRST := FETCHER_NATIVE=plain $(PYTEST) $(PLAIN_CORE) || plain_failed=1;
endif

test: $(VENV)/.installed $(VENV)/.test-dependencies
ifeq ($(FETCHER_TEST_ALL),1)
	@bash tests/support/debian.sh
endif
	@failed=0; plain_failed=0; $(PLAIN_FIRST) \
	$(PYTEST) $(TESTS) || failed=1; \
	if [ $$plain_failed = 1 ]; then echo "FAILED in plain mode: see the tests before these"; failed=1; fi; \
	exit $$failed

test-plain: $(VENV)/.installed $(VENV)/.test-dependencies
	@FETCHER_NATIVE=plain $(PYTEST) $(PLAIN_TESTS)

# As in every run of the tests, but each as often as is needed to believe it. -rP shows what was done.
torture: $(VENV)/.installed $(VENV)/.test-dependencies
	@FETCHER_TEST_LONG=1 $(PYTEST) -rP $(TORTURE_TESTS)

check: $(VENV)/.installed $(VENV)/.test-dependencies
	@failed=0; \
	$(PY) -m ruff format --check . || failed=1; \
	$(PY) -m ruff check . || failed=1; \
	$(PY) -m mypy || failed=1; \
	$(PY) -m pytest -q tests/test_floors.py tests/test_public_names.py || failed=1; \
	exit $$failed

bench: $(VENV)/.installed $(VENV)/.test-dependencies $(VENV)/.bench-dependencies
	@$(PY) -m benchmarks $(BENCH_ARGS)

bench-full: $(VENV)/.installed $(VENV)/.test-dependencies $(VENV)/.bench-dependencies
	@$(PY) -m benchmarks --full $(BENCH_ARGS)

bench-compare: base-is-given $(VENV)/.installed $(VENV)/.test-dependencies $(VENV)/.bench-dependencies
	@$(PY) -m benchmarks.compare $(BASE) $(BENCH_ARGS)

base-is-given:
	@test -n "$(BASE)" || { echo "make bench-compare BASE=<revision>: which one to compare with, such as HEAD~3?" >&2; exit 2; }

sanitize: $(VENV)/.installed $(VENV)/.test-dependencies
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" bash tests/native/sanitize.sh

clean:
	rm -rf build dist *.egg-info $(DEMO_DIR) .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f fetcher/_native/*.so fetcher/_native/*.c
	find fetcher tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f $(VENV)/.installed
