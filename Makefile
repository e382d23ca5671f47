# run: serve the bundled model.  test: everything CI checks.  docs: the pages in docs/ as a site, in build/site.
# train: on DATA, with the standard recipe.
PYTHON ?= python3
DATA ?= cifar10
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test check docs train clean

run: .venv/serving
	@$(BIN)/pupila serve

test: check
	$(BIN)/python -m pytest

check: .venv/everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

docs: .venv/everything
	$(BIN)/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

train: .venv/everything
	$(BIN)/pupila train $(DATA)

clean:
	rm -rf .venv build

# Each marker file stands for an installed set; it is made anew when what it was made from changes.
.venv/serving: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing what serving needs (once)..."
	@$(PIP) --editable .
	@touch $@

.venv/everything: .venv/serving
	@echo "Installing what training and testing need (once)..."
	@$(PIP) --editable '.[dev]'
	@touch $@
