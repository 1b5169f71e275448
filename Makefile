# `make demo` and `make test` work on a fresh machine: each makes .venv and installs what is missing, once.

# Any Python 3.10 to 3.12: a path, a name such as python3.11, or a range that uv looks for and, if need be, downloads.
PYTHON ?= >=3.10,<3.13
PYTEST_ARGS ?=

VENV := .venv
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
# uv and not pip: where pip is offered a CPU build of torch, torchvision's wheel still wants the CUDA build and cannot
# load, while uv resolves a pair that fits. Where there is no uv, one is put into .uv.
UV := $(or $(shell uv --version >/dev/null 2>&1 && command -v uv),.uv/bin/uv)
NO_UV := The set-up needs uv, or a python3 with venv to fetch uv with, and found neither: install uv, or python3-venv \
(on Debian and Ubuntu: apt install python3-venv), then run make again.

# The machine's certificates, as pip has them from its settings: a network may have an authority of its own.
export UV_SYSTEM_CERTS ?= 1

# NNI starts trials with the shell command of the YAML file, which has to find this environment's Python.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test lint docs bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## search, retrain, export and check three strategies on digits, seen in NNI's web UI
	$(VENV)/bin/nni-plugins run examples/bnas_v2.yml

# One thread a process: two processes with two threads each are far slower on two cores. Three processes: an experiment
# waits for NNI's manager so long that two leave a third of two cores idle. Status 5 says that PYTEST_ARGS picks no test.
test: export OMP_NUM_THREADS := 1
test: $(INSTALLED) ## run all tests (PYTEST_ARGS="-k cell" picks some)
	$(VENV)/bin/python -m pytest -n 3 --dist worksteal $(PYTEST_ARGS) || test $$? -eq 5

lint: $(INSTALLED) ## check style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy nni_plugins search_spaces tests benchmarks docs

# Without network, and every warning is an error: a broken link, a name that does not exist, a notebook that fails.
docs: $(INSTALLED_DOCS) ## build the documentation into docs/_build; open docs/_build/html/index.html
	$(VENV)/bin/python -m sphinx --fail-on-warning --keep-going --quiet -c docs . docs/_build/html

bench: $(INSTALLED) ## time and memory of a search step, beside NNI's own DARTS
	$(VENV)/bin/python benchmarks/search_step.py

clean: ## remove caches and build products; keeps .venv, data and exported
	rm -rf .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info docs/_build
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -not -path './.uv/*' -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt | $(filter .uv/%,$(UV))
	test -x $(VENV)/bin/python || $(UV) venv --allow-existing --python "$(PYTHON)" $(VENV)
	$(UV) pip install --python $(VENV)/bin/python -c constraints.txt -e ".[dev]"
	touch $@

$(INSTALLED_DOCS): $(INSTALLED)
	$(UV) pip install --python $(VENV)/bin/python -c constraints.txt -e ".[dev,docs]"
	touch $@

# Debian's python3 has no ensurepip until python3-venv is installed.
.uv/bin/uv:
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { echo '$(NO_UV)' >&2; exit 1; }
	python3 -m venv .uv
	.uv/bin/python -m pip install --quiet uv
