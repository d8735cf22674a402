# setup: everything the rest needs, once.  demo: the help desk.  test: all tests of 15 minutes.  check: style, types, layers.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup

.PHONY: setup models browser servers demo test coverage test-slow test-gpu check bench bench-desk bench-predictions bench-serve bench-shortcuts docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,serve,dev]'
	touch $(STAMP)

models: setup
	$(BIN)/tauten model pull

demo: models
	$(BIN)/tauten demo

# For the tests that look at pages. Where there is no browser and nobody here may install one, they are skipped and say so.
BROWSERS := chromium chromium-browser google-chrome chrome
browser:
	@for name in $$TAUTEN_BROWSER $(BROWSERS); do if command -v $$name >/dev/null 2>&1; then exit 0; fi; done; \
	if command -v apt-get >/dev/null 2>&1 && [ "$$(id -u)" -eq 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null \
	  || echo "chromium could not be installed: tests in a browser are skipped"; \
	else echo "no chromium, and nobody here may install it: tests in a browser are skipped"; fi

# For the tests that talk to PostgreSQL and Redis, which they start themselves on a port of this machine. PostgreSQL puts its
# programs where no PATH looks.
POSTGRES ?= /usr/lib/postgresql
servers:
	@want=""; \
	set -- $(POSTGRES)/*/bin/initdb; \
	command -v initdb >/dev/null 2>&1 || [ -x "$$1" ] || want="$$want postgresql"; \
	command -v redis-server >/dev/null 2>&1 || want="$$want redis-server"; \
	if [ -z "$$want" ]; then exit 0; fi; \
	if command -v apt-get >/dev/null 2>&1 && [ "$$(id -u)" -eq 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $$want >/dev/null \
	  || echo "$$want could not be installed: tests with a real server are skipped"; \
	else echo "no$$want, and nobody here may install it: tests with a real server are skipped"; fi

# Two files at a time: most tests keep one core busy at most, and what loads a model does so once a file.
RUN_TESTS := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow and not gpu'
test: models browser servers
	$(RUN_TESTS)

# The same tests, with the lines that none of them runs: that takes three times as long, so it is no part of `test`.
coverage: models browser servers
	$(RUN_TESTS) --cov --cov-report=term:skip-covered

test-slow: models
	$(BIN)/python -m pytest -m slow

# pytest exits 5 where no test carries the mark: said, and no failure.
test-gpu: models
	@status=0; $(BIN)/python -m pytest -m gpu || status=$$?; \
	if [ $$status -eq 5 ]; then echo "no test carries the mark gpu yet: nothing was run"; status=0; fi; \
	exit $$status

check: setup
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python bench/sizes.py

bench-desk: models
	$(BIN)/python bench/desk.py held_out

bench: models
	$(BIN)/python bench/overhead.py
	$(BIN)/python bench/startup.py
	$(BIN)/python bench/memory.py

# Three workflows, one after another; the same command goes on where it was. ARGS="triage --most 5 --loads 0" is a look.
bench-predictions: models
	$(BIN)/python -m bench.predictions --ledger out/predictions.jsonl --out out/predictions.json $(ARGS)

# Both halves run, whatever the first one says, and write out/bench-serve.json with its page beside it; SCENARIOS=--quick
# is a look of three minutes at the second. `python -m bench.serve.files` draws the page again from the file.
bench-serve: models
	@status=0; \
	$(BIN)/python -m bench.serve.run $(ARGS) || status=$$?; \
	$(BIN)/python -m bench.serve.scenarios.run_scenarios $(SCENARIOS) || status=$$?; \
	exit $$status

# ARGS="--quick --only exact_hit" is a look of a minute; `python -m bench.shortcuts.page` draws the page again.
bench-shortcuts: models servers
	$(BIN)/python -m bench.shortcuts.run $(ARGS)

docs: models
	$(BIN)/python -m pytest -q tests/docs

clean:
	rm -rf $(VENV) out build dist
