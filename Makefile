# Each target sets up what it needs, once: a virtual environment with the versions of requirements.lock.
PYTHON ?= python3
READY := .venv/.ready
PEERS := .venv/peers/.ready
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: setup repro test oldest bench check docs ui report lock clean
.DEFAULT_GOAL := repro

setup: $(READY) ## the environment alone

repro: $(READY) ## run the DAG, then bring MLflow up to date
	@python -m workflow.engine.params
	@dvc repro
	@python -m workflow.records.ledger

test: $(READY) ## the tests; the first call fetches the weights that they use
	@python -m pytest -n 2 --dist loadfile

oldest: ## the library's tests on the oldest versions of its dependencies that pyproject.toml admits
	@$(PYTHON) -m venv --clear .venv/oldest
	@.venv/oldest/bin/python -m pip install --quiet matplotlib pyyaml pydantic tqdm --editable '.[dev]' \
	  $$($(PYTHON) -c 'import re, tomllib; print(*[re.sub(">=([0-9.]+).*", r"==\1", d) for d in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]])')
	@.venv/oldest/bin/python -m pytest -n 2 --dist loadfile tests/rootstock tests/test_examples.py

bench: $(READY) $(PEERS) ## compare with the peers: an hour; `python -m benchmarks encode` is a part of it
	@dvc repro # the weights, and a DAG with nothing left to do
	@python -m benchmarks

$(PEERS): benchmarks/requirements-peers.txt
	@echo "setting up .venv/peers (once, a few minutes)"
	@$(PYTHON) -m venv --clear .venv/peers
	@.venv/peers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

check: $(READY) ## lint, format and types
	@ruff check .
	@ruff format --check .
	@mypy

docs: $(READY) ## build the documentation site in docs/_build/html; a broken link is an error
	@sphinx-build --fail-on-warning --keep-going --nitpicky -q docs docs/_build/html
	@echo "docs    docs/_build/html/index.html"

ui: $(READY) ## compare runs in the browser
	@python -m workflow.records.ledger || true # while a stage runs there is nothing complete to record
	@case "$$MLFLOW_TRACKING_URI" in \
	  http*) echo "MLflow runs at $$MLFLOW_TRACKING_URI" ;; \
	  *) mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" ;; \
	esac

report: $(READY) ## one page about what is here: cost, scores, errors
	@python -m workflow.records.ledger
	@python -m workflow.records.report

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 15) else "error: Python 3.11 to 3.14 is wanted, this is " + sys.version.split()[0] + "; name another: make PYTHON=python3.11")'
	@echo "setting up .venv (once, a few minutes)"
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

lock: ## renew requirements.lock from the ranges in pyproject.toml
	@$(PYTHON) -m venv --clear .venv/lock
	@.venv/lock/bin/python -m pip install --quiet torch==2.13.0 --editable '.[workflow,dev]'
	@{ echo "# Made by 'make lock': exact versions of the library, the workflow and the development tools, for pip on Linux."; \
	   .venv/lock/bin/python -m pip freeze --all --exclude-editable | sed 's/+cpu$$//'; } > requirements.lock
	@rm -r .venv/lock

clean: ## forget the environment; results stay
	@rm -rf .venv
