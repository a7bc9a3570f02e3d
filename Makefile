PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY = passive

.PHONY: setup services format check test benchmark docs demo clean

setup: $(VENV)/.installed  ## create .venv and install ncpl with its development tools

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# what tests of PostgreSQL, SLURM and a browser need, from Debian, where this may install it
DEBIAN := postgresql slurm-wlm munge chromium

services: setup  ## the real services that tests use where they are: without them those tests skip and say so
	@if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
		dpkg-query -s $(DEBIAN) > /dev/null 2>&1 || { apt-get -qq update && \
		DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $(DEBIAN) > /dev/null; } || \
		echo "services: $(DEBIAN) could not all be installed; tests that need them skip"; \
	else echo "services: only root can apt-get install $(DEBIAN); tests that need them skip"; fi
	$(BIN)/python -m pip install --quiet --editable '.[dev,postgres,ray]'

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

docs: setup  ## the pages of docs/ as a site in build/docs
	$(BIN)/mkdocs build --strict --quiet

demo: setup  ## the main job on the bundled digits
	$(BIN)/python -m ncpl_cli demo

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
