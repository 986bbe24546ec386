# The words of this project. `make lab` and `make test` are all a new machine needs.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
T ?= 60
# Tests mostly wait for a server; a file's tests stay together, they share its fixtures.
SIDE_BY_SIDE := -n 2 --dist loadfile

.PHONY: lab test lint check bench bench-check docs fuzz chaos reliability e2e control-plane node node-e2e pythons site release image clean

# Show the lab as Pods see it, then serve it and print what to ask.
lab: $(VENV)/installed
	@CLUSTERDNS=$(abspath $(BIN))/clusterdns timeout 20 deploy/lab/netns.sh 2>/dev/null || echo "no network namespaces here"
	@$(BIN)/clusterdns lab

# Run every test; those that need a real CoreDNS, dig or dnsperf get it or say how to install it.
test: $(VENV)/installed
	$(BIN)/pytest $(SIDE_BY_SIDE) --cache-clear || $(BIN)/python tests/again.py $$?

# The tests that need no other server, with each other Python that is here or can be had.
OTHER_PYTHONS := 3.12 3.13 3.14
pythons: $(VENV)/installed
	@set -e; for version in $(OTHER_PYTHONS); do \
	    python=$$(.ci/python.sh $$version) || { echo "no Python $$version here"; continue; }; \
	    echo "Python $$version"; \
	    $$python -m venv --without-pip $(VENV)-$$version; \
	    $(BIN)/pip --quiet --disable-pip-version-check --python $(VENV)-$$version/bin/python install -e '.[dev]'; \
	    $(VENV)-$$version/bin/pytest $(SIDE_BY_SIDE) --cache-clear -m "not peer and not slow" \
	        tests/unit tests/wire tests/system/test_process.py tests/system/test_watch.py || \
	        $(VENV)-$$version/bin/python tests/again.py $$?; \
	done

# Format, lint and types.
lint: $(VENV)/installed
	$(BIN)/ruff format --check clusterdns tests deploy docs
	$(BIN)/ruff check clusterdns tests deploy docs
	$(BIN)/mypy
	$(BIN)/mypy deploy/release docs/site

# Before a commit: lint, and the tests that need no other server and no patience.
check: lint
	$(BIN)/pytest $(SIDE_BY_SIDE) -m "not peer and not slow"

# CPU per query beside CoreDNS, Knot, Unbound, dnsmasq and a C echo server, half an hour; into README and docs/.
bench: $(VENV)/installed $(VENV)-compiled/installed
	$(BIN)/python tests/bench/run.py --json bench.json
	CLUSTERDNS_COMPILED=$(abspath $(VENV)-compiled/bin/clusterdns) \
	    $(BIN)/python tests/bench/run.py --forms --json forms.json
	$(BIN)/python tests/bench/report.py bench.json forms.json

# The package with its typed modules compiled, as in the image.
$(VENV)-compiled/installed: pyproject.toml setup.py $(shell git ls-files 'clusterdns/*.py' 'clusterdns/*.c')
	$(PYTHON) -m venv --without-pip $(VENV)-compiled
	CLUSTERDNS_COMPILE=1 $(BIN)/pip --quiet --disable-pip-version-check \
	    --python $(VENV)-compiled/bin/python install --force-reinstall .
	@touch $@

# Has the packet path become slower than recorded? Ratios to the echo server, two minutes.
bench-check: $(VENV)/installed
	$(BIN)/python tests/bench/check.py

# Write what is made of the code and of the recorded benchmark: in the README, docs/ and the chart.
docs: $(VENV)/installed
	PYTHONPATH=tests/support $(BIN)/python -m plugintable
	$(BIN)/clusterdns help --completion bash >deploy/shell/clusterdns
	$(BIN)/clusterdns help --completion zsh >deploy/shell/_clusterdns
	$(BIN)/clusterdns help --completion fish >deploy/shell/clusterdns.fish
	$(BIN)/clusterdns help --man >docs/clusterdns.8
	UPDATE_DOCS=1 $(BIN)/pytest -q tests/system/test_debugging.py tests/system/test_commands_page.py tests/system/test_page.py
	$(BIN)/clusterdns -plugins | sed -n 's/^  dns\.//p' >deploy/helm/clusterdns/plugins.txt
	$(BIN)/python tests/bench/report.py

# Every fuzz target for T seconds; the guided ones by coverage, also of the C code where clang is.
GUIDED = $(patsubst tests/wire/fuzz/%.py,%,$(shell grep -l 'guided.py [a-z]' tests/wire/fuzz/*.py))
fuzz: $(VENV)/installed
	@for target in tests/wire/fuzz/fuzz_*.py; do $(BIN)/python $$target $(T) || exit 1; done
	@for target in $(GUIDED); do echo $$target; \
	    $(BIN)/python tests/wire/fuzz/guided.py $$target $(T) || exit 1; done

# The real binary under load while everything around it fails at random, for T seconds; SEED=n again;
# API=real with the real API server of `make control-plane`.
chaos: $(VENV)/installed
	$(BIN)/python tests/chaos/chaos.py $(T) $(SEED)

# The rows of the scoreboard at full size, an hour, into docs/reliability.md; ROWS=W1,K7 only some.
ROWS ?= all
reliability: $(VENV)/installed
	FULL=1 $(BIN)/pytest -n 2 --dist loadgroup --rows $(ROWS) --figures tests/scoreboard.json; status=$$?; \
	    PYTHONPATH=tests/support $(BIN)/python -m scoreboard tests/scoreboard.json docs/reliability.md; exit $$status

# Through a real etcd, kube-apiserver and kube-controller-manager.
e2e: control-plane
	$(BIN)/pytest $(foreach name,e2e deploy helm switch lab_pods,tests/system/test_$(name).py)

# Build them from Go's modules, once, in six minutes; `make test` uses them if they are there.
control-plane:
	tests/node/build.sh kube-apiserver kube-controller-manager kubectl

# As the DNS of a real node (kubelet, containerd, kube-proxy); root, ten minutes more the first time.
# PARTS: some of tests/node/parts, or `ci`.
node: $(VENV)/installed
	CLUSTERDNS=$(abspath $(BIN))/clusterdns tests/node/run.sh $(PARTS)

# Kubernetes' own tests of DNS there.
node-e2e: $(VENV)/installed
	CLUSTERDNS=$(abspath $(BIN))/clusterdns tests/node/run.sh e2e

# The documentation as pages in build/site.
site: $(VENV)/installed
	$(BIN)/python docs/site/build.py build/site

# Wheels, image, SBOM, provenance and sums in dist/, all of it tried; see CONTRIBUTING.md.
release: $(VENV)/installed
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[release]'
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python deploy/release/release.py dist $(PARTS)

image:
	docker build -t clusterdns .

clean:
	rm -rf $(VENV) $(VENV)-3.* $(VENV)-compiled dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@
