# `make help` lists what there is. Needs Python 3.11 or newer and make, nothing else.
# PORT and SAGASCOPE_DATA can be given: make demo PORT=9000 SAGASCOPE_DATA=/srv/sagascope

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PORT ?= 8000
SAGASCOPE_DATA ?= $(CURDIR)/.sagascope
export SAGASCOPE_DATA
# Compiled code is kept, whatever the shell says: else each of a run's many processes compiles all of it again.
export PYTHONDONTWRITEBYTECODE :=

BIN := .venv/bin
STAMP := .venv/.installed-$(shell cksum < requirements.lock | tr -s ' ' '-')
PYTEST_WORKERS ?= 2
CITUS_TESTS ?= tests/sagas/test_laws.py tests/sagas/test_queries.py tests/api/test_reading.py tests/alerts/test_stuck.py

.DEFAULT_GOAL := help
.PHONY: help demo dev up test lint audit sbom format bench e2e interop faults mutants hostile fuzz screenshots citus migrate lock browser clean

help: ## List the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "  make %-11s %s\n", $$1, $$2}'

demo: $(STAMP) ## Start everything with live example sagas; prints a URL and a login
	@$(BIN)/python manage.py up --port $(PORT) --simulate --backfill 1

up: $(STAMP) ## Start everything without example sagas
	@$(BIN)/python manage.py up --port $(PORT)

dev: $(STAMP) ## Like demo, with errors on the page and a restart when code changes
	@DEBUG=1 $(BIN)/python manage.py up --port $(PORT) --simulate --reload

test: $(STAMP) browser ## Run every test that this machine can run
	@$(BIN)/pytest -n $(PYTEST_WORKERS) --dist loadscope -m "not slow and not interop"

e2e: $(STAMP) browser ## Run the browser tests
	@$(BIN)/pytest -m e2e

interop: $(STAMP) ## Run the tests against other people's software, and the slow ones
	@$(BIN)/pytest -m "slow or interop"

hostile: $(STAMP) ## Send every bad input over every transport, and run schemathesis
	@$(BIN)/pytest -q tests/hostile

faults: $(STAMP) ## Kill, stop and starve a running Sagascope; FAULTS="--nightly F3" says how
	@$(BIN)/python -m tests.faults.run $(FAULTS)

mutants: $(STAMP) ## Plant bugs, one at a time, and see that a test catches each
	@$(BIN)/python -m tests.faults.mutants

fuzz: $(STAMP) ## Fuzz every parser for FUZZ_SECONDS (300) each
	@$(BIN)/python -m tests.fuzz.run --seconds $(or $(FUZZ_SECONDS),300)

lint: $(STAMP) ## Check style, types, layers, migrations and settings
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py servers -- makemigrations --check --dry-run
	$(BIN)/python manage.py check
	$(BIN)/yamllint --strict -d '{extends: default, rules: {line-length: {max: 120}, document-start: disable}}' docker

audit: $(STAMP) ## Ask the list of known flaws about every pinned package (needs a way out)
	@$(BIN)/python -m apps.config.known_flaws requirements-server.lock

sbom: $(STAMP) ## Write what a release is made of, as CycloneDX, to sbom.cdx.json
	@$(BIN)/python -m apps.config.bill_of_materials requirements-server.lock > sbom.cdx.json

format: $(STAMP) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(STAMP) ## Measure all that fits in a quarter of an hour, and write docs/benchmarks.md (BENCH=--full: all of it)
	@$(BIN)/python benchmarks/everything.py $(BENCH)

# CITUS_SOURCE: an unpacked source of Citus, instead of cloning it. Redis is the data folder's own.
citus: $(STAMP) ## Build Citus, and run the laws, lists and the API on a cluster of three PostgreSQL servers
	@$(BIN)/python -m tests.scale.citus_cluster --into "$(SAGASCOPE_DATA)/citus" \
	    $(if $(CITUS_SOURCE),--source "$(CITUS_SOURCE)") -- pytest -n 0 --reuse-db -q $(CITUS_TESTS)

screenshots: $(STAMP) browser ## Take the pictures of docs/images again, from a running demo
	@$(BIN)/python -m tests.e2e.screenshots

migrate: $(STAMP) ## Bring the database up to date
	@$(BIN)/python manage.py servers -- migrate

lock: $(STAMP) ## Pin the dependencies of pyproject.toml again
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --generate-hashes --python-version 3.11 \
	    --no-emit-index-url --no-emit-find-links --no-header --quiet -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras -c requirements.lock --universal --generate-hashes \
	    --python-version 3.11 --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet \
	    -o requirements-server.lock

# A browser for the tests marked e2e. Without one they skip and say so.
browser:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Chromium for the browser tests"; \
	    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium) \
	        >/tmp/sagascope-chromium.log 2>&1 || echo "Chromium could not be installed: the browser tests will skip"; \
	else echo "No Chromium found: the browser tests will skip (install it with: apt-get install chromium)"; fi

# The environment is made again only when the lock changes.
$(STAMP): requirements.lock
	@echo "Installing into .venv"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@# uv is faster, but knows nothing of an index that is configured for pip: then pip does it.
	@command -v uv >/dev/null \
	    && uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock 2>/dev/null \
	    || $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --require-hashes -r requirements.lock
	@rm -f .venv/.installed-* && touch $@

clean: ## Remove what the tools left behind (not your data)
	rm -rf .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis staticfiles test-results
	find apps tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
