# The words of this project. `make lab` and `make test` are all a new machine needs.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
T ?= 60

.PHONY: lab test check bench fuzz image clean

# Serve the lab cluster of zones/ and print what to ask it.
lab: $(VENV)/installed
	@$(BIN)/clusterdns lab

# Run every test; those that need a real CoreDNS, dig or dnsperf get it or say how to install it.
test: $(VENV)/installed
	$(BIN)/pytest

# Format, lint, types, and the tests that need no other server.
check: $(VENV)/installed
	$(BIN)/ruff format --check clusterdns tests
	$(BIN)/ruff check clusterdns tests
	$(BIN)/mypy
	$(BIN)/pytest -m "not peer and not slow"

# CPU per query beside a C echo server and, if there is one, CoreDNS.
bench: $(VENV)/installed
	$(BIN)/python tests/bench/run.py

# Every fuzz target for T seconds.
fuzz: $(VENV)/installed
	@for target in tests/fuzz/fuzz_*.py; do $(BIN)/python $$target $(T) || exit 1; done

image:
	docker build -t clusterdns .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
