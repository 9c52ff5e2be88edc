# `make demo` shows what GCOS does, `make test` checks all of it. Both set up .venv themselves.

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test soak bench lint clean

demo: $(VENV)/.demo-installed
	@$(VENV)/bin/python -m testbed.demo --json demo.json

test: lint
	$(VENV)/bin/python -m pytest -m "live and not soak"
	$(VENV)/bin/python -m pytest -m "not live and not soak" -n auto --maxprocesses 4

lint: $(VENV)/.test-installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy examples/python/*.py examples/research/*.py examples/tune
	$(VENV)/bin/lint-imports

soak: $(VENV)/.test-installed
	$(VENV)/bin/python -m pytest -m soak
	$(VENV)/bin/python -m pytest -m "not live and not soak" --hypothesis-profile=search

bench: $(VENV)/.test-installed
	@$(VENV)/bin/python -m testbed.bench

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache demo.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo-installed: pyproject.toml $(VENV)/.created
	@echo "Installing GCOS and what the demo needs into $(VENV) ..." >&2
	@$(PIP) install --editable '.[workloads]'
	@touch $@

$(VENV)/.test-installed: pyproject.toml $(VENV)/.created
	@echo "Installing GCOS and what the tests need into $(VENV) ..." >&2
	@$(PIP) install --editable '.[test]'
	@touch $@

# Not `$(VENV)/bin/python`: a venv that broke off half-way has that file too, but no pip.
$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: $(PYTHON) is not installed; GCOS needs Python 3.11 or newer" >&2; \
	  echo "       name another with: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and ( \
	  f"error: $(PYTHON) is Python {v[0]}.{v[1]}; GCOS needs 3.11 or newer\n" \
	  "       name another with: make PYTHON=/path/to/python3.12 ..."))'
	@$(PYTHON) -m venv $(VENV)
	@touch $@
