PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY = passive

.PHONY: setup format check test benchmark demo clean

setup: $(VENV)/.installed  ## create .venv and install ncpl with its development tools

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

format: setup  ## rewrite the code in the house style
	$(BIN)/ruff check --fix ncpl_cli migrations tests benchmarks
	$(BIN)/ruff format ncpl_cli migrations tests benchmarks

check: setup  ## lint, types, import directions
	$(BIN)/ruff check ncpl_cli migrations tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## everything CI runs
	$(BIN)/pytest -n 2 --dist worksteal

benchmark: setup  ## speed claims, as ratios measured side by side
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

demo: setup  ## the main job on the bundled digits
	$(BIN)/python -m ncpl_cli demo

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
