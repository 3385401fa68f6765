# make run    an environment in .venv, then backend and app; prints the address
# make test   the same environment, then every test
# Settings:   PYTHON=python3.12   VENV=elsewhere   PIP_ARGS="--extra-index-url ..."   TESTS="tests/core -q"

# The first that runs: version managers leave commands behind that only say that they are not installed.
NEW     := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON  ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c '$(NEW)' 2>/dev/null && echo $$p && break; done)
VENV    ?= .venv
PIP_ARGS ?=
TESTS   ?=
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed

.PHONY: run test env lint tree clean

run: $(STAMP)
	@$(BIN)/manifold-atlas run

test: $(STAMP)
	@if ! command -v chromium chromium-browser google-chrome >/dev/null 2>&1; then \
		echo "The browser tests will be skipped: no chromium was found. On Debian or Ubuntu: sudo apt install chromium"; fi
	$(BIN)/python -m pytest $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .

tree: $(STAMP)
	$(BIN)/manifold-atlas doctor --tree --write

env: $(STAMP)

# The stamp is older than pyproject.toml exactly when something has to be installed.
$(STAMP): pyproject.toml | $(BIN)/python
	@echo "Installing Manifold Atlas into $(VENV) (a few minutes the first time; torch is large) ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on $(PIP_ARGS) -e ".[dev]" \
		|| { echo; echo "The installation into $(VENV) did not finish. The lines above say which package failed."; \
		     echo "Check the network (or your pip settings) and run the same command again: it goes on where it stopped."; exit 1; }
	@touch $@

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer was not found. On Debian or Ubuntu: sudo apt install python3.11 python3.11-venv"; exit 1; fi
	@$(PYTHON) -c '$(NEW)' 2>/dev/null || { \
		echo "$(PYTHON) does not run, or is older than Python 3.11, which Manifold Atlas needs."; \
		echo "On Debian or Ubuntu: sudo apt install python3.11 python3.11-venv, then: make run PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments: its venv package is missing."; \
		echo "On Debian or Ubuntu: sudo apt install python3-venv (or python3.11-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build *.egg-info
