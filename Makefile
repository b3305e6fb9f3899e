# `make` lists the targets. Everything runs in .venv, from requirements.lock.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
VERSION_OF = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

# What requirements.lock can be installed on; PYTHONS are those that it is tested on.
INSTALLABLE := 3.11 3.12 3.13 3.14

# A window system is neither needed nor looked for.
export MPLBACKEND := Agg

# Test files that run at once, each on one thread: two workers of two threads each would wait for one another.
JOBS ?= 2

# What test-faults draws its moments from, and how many kills each command has to get over.
SEED ?= 0
KILLS ?= 20
PYTHONS ?= 3.11 3.12 3.13

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install lock lint format types test test-faults test-lowest test-pythons test-postgres test-ray \
	demo sweep docs tensorboard bench audit clean FORCE

help: ## List the targets
	@awk -F ':.*## ' '/^##@/ {print "\n" substr($$0, 5)} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ Use it

install: $(STAMP) ## Make .venv; PYTHON=python3.12 picks the interpreter

# A .venv that is there is kept and brought up to the lock, unless another Python is asked for by name.
ifeq ($(wildcard $(BIN)/python),)
NEW_VENV := yes
else ifneq ($(origin PYTHON),file)
ifneq ($(call VERSION_OF,$(PYTHON)),$(call VERSION_OF,$(BIN)/python))
NEW_VENV := yes
$(STAMP): FORCE
endif
endif

$(STAMP): requirements.lock
ifdef NEW_VENV
	@case " $(INSTALLABLE) " in *" $(call VERSION_OF,$(PYTHON)) "*) ;; *) \
		echo "$(PYTHON) is $(or $(addprefix Python ,$(call VERSION_OF,$(PYTHON))),no Python that starts); expected" \
			"Python $(firstword $(INSTALLABLE)) to $(lastword $(INSTALLABLE)), which requirements.lock has packages for." \
			"Name one that is here: make install PYTHON=python3.13" >&2; exit 1;; esac
	$(PYTHON) -m venv --clear $(VENV)
endif
	@echo "Installing requirements.lock; the first time some 3 GB are downloaded, which takes minutes."
	$(BIN)/python -m pip install --quiet --only-binary :all: --require-hashes -r requirements.lock
	@touch $@

demo: logs/demo/map.png ## From a real scene to a map of it, in minutes

sweep: install data/demo/chips/dataset.json ## Search the demo's hyperparameters: four short trials
	$(BIN)/python train.py -m experiment=demo hparams_search=demo

tensorboard: install ## Look at the training runs in a browser
	$(BIN)/python scripts/open_tensorboard.py

docs: install ## Build docs/ into pages: site/index.html
	$(BIN)/python scripts/config_reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html; with its search: $(BIN)/python -m http.server --directory site"

##@ Work on it

test: lint types ## Everything that has to pass: lint, types, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

lint: install ## Style, with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install ## Types, with mypy strict; of tests what they call
	$(BIN)/mypy

format: install ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-faults: install ## Kill prepare, train, predict and sweeps 20 times each
	FAULTS_KILLS=$(KILLS) FAULTS_SEED=$(SEED) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults -s

test-lowest: install ## The tests with the oldest versions allowed (6 GB)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-lowest
	$(BIN)/uv pip compile pyproject.toml --extra dev --resolution lowest-direct --no-build --no-emit-index-url \
		--quiet --output-file .venv-lowest/requirements.txt
	$(BIN)/uv pip install --quiet --no-build --python .venv-lowest/bin/python -r .venv-lowest/requirements.txt
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n $(JOBS) --dist loadfile

test-pythons: install ## The tests on Python 3.11 to 3.13 (6 GB each)
	for version in $(PYTHONS); do \
		$(BIN)/uv python find --no-python-downloads $$version >/dev/null 2>&1 || \
			{ echo "No Python $$version here: left out."; continue; }; \
		$(BIN)/uv venv --quiet --clear --no-python-downloads --python $$version .venv-$$version && \
		$(BIN)/uv pip install --quiet --no-build --require-hashes --python .venv-$$version/bin/python \
			-r requirements.lock && \
		OMP_NUM_THREADS=1 .venv-$$version/bin/python -m pytest -n $(JOBS) --dist loadfile || exit 1; \
	done

test-postgres: install ## Two processes on one study in PostgreSQL
	TEST_POSTGRES=1 $(BIN)/python -m pytest tests/test_study_postgres.py

test-ray: install ## Two runs on a Ray cluster of this machine; installs Ray
	$(BIN)/python -m pip install --quiet ".[ray]"
	TEST_RAY=1 $(BIN)/python -m pytest tests/test_sweep.py -k ray

bench: install ## Speed and memory against what the machine can do
	$(BIN)/python scripts/bench.py

lock: install ## Choose versions anew within bounds, and pin them
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-build --no-emit-index-url --no-emit-find-links --quiet --upgrade \
		--custom-compile-command "make lock" -o requirements.lock

audit: install ## Known vulnerabilities of what is locked
	$(BIN)/python scripts/audit.py

clean: ## Remove what the checks leave; runs, data, .venv stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The demo. Its first two steps know by themselves whether there is something to do, and leave their files
# alone if not; training, scores and map follow when the chips or a recipe are newer.
recipe = $(wildcard configs/$(1)/experiment/demo.yaml configs/experiment/demo.yaml)

data/demo/train_image.tif: FORCE | install
	$(BIN)/python scripts/demo_data.py

data/demo/chips/dataset.json: data/demo/train_image.tif FORCE
	$(BIN)/python prepare.py experiment=demo

logs/train/demo/.done: data/demo/chips/dataset.json $(call recipe,train)
	$(BIN)/python train.py experiment=demo
	@touch $@

logs/eval/demo/.done: logs/train/demo/.done $(call recipe,eval)
	$(BIN)/python eval.py experiment=demo
	@touch $@

logs/predict/demo/.done: logs/train/demo/.done logs/eval/demo/.done $(call recipe,predict)
	$(BIN)/python predict.py experiment=demo
	@touch $@

logs/demo/map.png: logs/predict/demo/.done FORCE
	$(BIN)/python scripts/demo_picture.py
