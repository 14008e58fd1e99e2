# Everything a person or CI calls. The two that matter: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed-dev
DEMO_STAMP := $(VENV)/.installed-demo

.PHONY: help demo test test-long lint format bench wheel-test chromium clean
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

demo: $(DEMO_STAMP)     ## create the environment, install, run the main job end to end
	$(BIN)/bmsota-sim demo

test: $(STAMP) chromium ## all tests, from the checkout and from the built wheel
	$(BIN)/python -m pytest -n 2 --dist loadgroup
	$(BIN)/python scripts/wheel_test.py

test-long: $(STAMP) chromium ## the same tests at larger counts
	BMSOTA_LONG=1 $(BIN)/python -m pytest -n 2 --dist loadgroup
	$(BIN)/python tests/fuzz/fuzz_gbt32960.py -runs=200000 -max_len=512

lint: $(STAMP)          ## format check, ruff, mypy strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)        ## format in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)         ## figures, one JSON line each
	$(BIN)/python -m benchmarks

wheel-test: $(STAMP)    ## build the wheel, test it in fresh environments
	$(BIN)/python scripts/wheel_test.py

chromium:               ## the browser for the page tests (Debian package, if missing)
	@sh scripts/ensure_chromium.sh

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
