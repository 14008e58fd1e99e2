# Everything a person or CI calls. The two that matter: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-dev
DEMO_STAMP := $(VENV)/.installed-demo
# Front-end packages of the pages, from npm. An editable install brings them too; this is for a lock that has changed since.
VENDOR := cloud/bmsota_cloud/pages/static/vendor/packages.json

# Some environments tell Python to write no bytecode. Then every worker of the tests compiles all of them, and every program that
# a test starts all of itself: minutes of `make test`.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo check fast-tests fast-tests-cloud fast-tests-others test all-tests test-long lint docs format bench wheel-test frontend chromium postgresql gcc faketime clean
help:            ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(DEMO_STAMP): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[all]'
	touch $@

$(STAMP): $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@ $(DEMO_STAMP)

$(VENDOR): $(BIN)/python cloud/frontend/package-lock.json scripts/frontend.py
	$(BIN)/python scripts/frontend.py
	touch $@

demo: $(DEMO_STAMP) $(VENDOR) ## create the environment, install, run the main job end to end
	$(BIN)/bmsota-sim demo

check: $(STAMP)  ## what to run before a commit: lint, types, docs, the fast tests (side by side, 90 s on two quiet cores)
	@echo "make check: format, ruff, mypy and the documentation site beside the tests that are not slow; each speaks when it has ended."
	$(MAKE) --jobs 3 --output-sync=target lint fast-tests

fast-tests: fast-tests-cloud fast-tests-others ## the tests that take no more than a moment (scripts/dear_tests.py says which)

# Two processes instead of two workers: each collects its own part, and nothing is sent from one to the other.
FAST := $(BIN)/python -m pytest -q -m "not slow and not long and not browser and not demo"
fast-tests-cloud: $(STAMP) $(VENDOR)
	$(FAST) tests/cloud

fast-tests-others: $(STAMP) $(VENDOR) gcc
	$(FAST) --ignore tests/cloud tests

test: $(STAMP) $(VENDOR) chromium postgresql gcc faketime ## all tests, from the checkout and from the built wheel
	$(MAKE) --jobs 2 all-tests wheel-test

# Three workers, because some tests wait. tests/rigs/order.py has the longest begin.
all-tests: $(STAMP) $(VENDOR)
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-long: $(STAMP) $(VENDOR) ## the tests marked "long" at larger counts; goes on where it stopped (SEEDS=0:4)
	$(BIN)/python scripts/long_tests.py --seeds $(or $(SEEDS),0:4)

lint: $(STAMP) docs     ## format check, ruff, mypy strict, the documentation site
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(STAMP)   ## the documentation site, strict, in build/site
	$(BIN)/python scripts/build_docs.py

format: $(STAMP)        ## format in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)         ## figures, one JSON line each
	$(BIN)/python -m pip install --quiet -e '.[bench]'
	$(BIN)/python -m benchmarks

wheel-test: $(STAMP)    ## build the wheel, test it in fresh environments
	$(BIN)/python scripts/wheel_test.py

frontend: $(VENDOR)     ## the front-end packages of the pages (npm)

chromium:               ## the browser for the page tests (Debian package, if missing)
	@sh scripts/ensure_chromium.sh

postgresql:             ## the database server for the tests (Debian package, if missing)
	@sh scripts/ensure_postgresql.sh

gcc:                    ## the C compiler for the tests of the wire header (Debian package, if missing)
	@sh scripts/ensure_gcc.sh

faketime:               ## the library that gives a test's platform another clock (Debian package, if missing)
	@sh scripts/ensure_faketime.sh

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache cloud/frontend/node_modules $(dir $(VENDOR))
