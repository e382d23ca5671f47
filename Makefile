# run: serve the bundled model.  test: everything CI checks; suite: its tests alone.  docs: the pages in docs/ as a site.
# train: on DATA, with the standard recipe.
PYTHON ?= python3
DATA ?= cifar10
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: run test suite test-lowest check docs train dist clean

run: .venv/serving
	@$(BIN)/pupila serve

test: check suite

suite: .venv/everything
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not alone'
	$(BIN)/python -m pytest -m alone $$(grep --recursive --files-with-matches 'mark[.]alone' tests)

check: .venv/everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

# The lowest versions that pyproject.toml allows, and what tests them. PyTorch alone is 3 GB: LOWEST= leaves out training.
LOWEST ?= train,parquet
LOW := .venv-lowest/bin
TRAINS := tests/test_training_export.py tests/test_training_checkpoint.py tests/test_data_parquet.py
SERVES := tests/test_helpers.py tests/test_images.py tests/test_server_run.py tests/test_batch_run.py

test-lowest:
	@test -x $(LOW)/uv || { $(PYTHON) -m venv .venv-lowest && $(LOW)/python -m pip install --quiet uv; }
	$(LOW)/uv pip install --quiet --python $(LOW)/python --resolution lowest-direct --editable '.[$(LOWEST)]' 'onnx>=1.19'
	$(LOW)/uv pip install --quiet --python $(LOW)/python pytest pytest-timeout hypothesis requests psutil
	$(LOW)/python -m pytest -W default $(SERVES) $(if $(LOWEST),$(TRAINS))

docs: .venv/everything
	$(BIN)/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

train: .venv/training
	$(BIN)/pupila train $(DATA)

# Wheels, source archives and a bill of materials in dist/. URL: where the repository can be read, if it can.
dist:
	$(PYTHON) tools/dist.py $(if $(URL),--url $(URL))

clean:
	rm -rf .venv .venv-lowest build dist

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

# PyTorch for processors is a fifth of the size of the one for GPUs, and has an index of its own.
.venv/training: .venv/serving
	@echo "Installing what training needs (once)..."
	@test -e /dev/nvidia0 || $(PIP) --retries 0 --timeout 10 --index-url https://download.pytorch.org/whl/cpu torch \
		2>/dev/null || echo "PyTorch's build for processors cannot be reached: pip takes the one that it finds."
	@$(PIP) --editable '.[train]'
	@touch $@
