# Everything a developer does here; `make` lists it.
SHELL := /bin/bash
VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip --disable-pip-version-check -q
SOURCES := $(wildcard wgfast/core/*.[ch]) wgfast/_core.pyx wgfast/_core.pxd
CHECKED := wgfast tests bench examples setup.py
C_WARNINGS := -Wall -Wextra -Wconversion -Wshadow -Werror

.DEFAULT_GOAL := help
.PHONY: help build demo test test-fast test-tools check check-c sanitize bench bench-aead bench-compare clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: $(VENV)/.built ## Build into .venv, installing a compiler and Python's headers where they are missing

demo: build ## Two devices on this machine, a handshake, traffic both ways, a table
	@$(VENV)/bin/wgfast demo

test: build test-tools $(VENV)/.test ## Run every test, installing what they need (as root)
	$(PYTHON) -m pytest -q --durations=10

test-fast: build $(VENV)/.test ## Run the tests that need neither root nor other implementations
	$(PYTHON) -m pytest -q -m "not lab"

check: build $(VENV)/.test check-c ## Format, lint, types, C warnings, house rules
	$(VENV)/bin/ruff format --check $(wildcard $(CHECKED))
	$(VENV)/bin/ruff check $(wildcard $(CHECKED))
	$(VENV)/bin/mypy
	@.ci/house

sanitize: ## Run the C tests under address, undefined-behaviour and thread sanitizers
	@.ci/packages build
	@$(MAKE) --no-print-directory -C tests/core run VARIANT=address
	@$(MAKE) --no-print-directory -C tests/core run VARIANT=thread

bench: build $(VENV)/.bench ## Measure the parts, packets and bits per second
	$(PYTHON) -m pytest -q bench

bench-aead: build $(VENV)/.bench ## The AEAD beside libsodium, OpenSSL and ipsec-mb (ARGS=--quick, --isa avx2, ...)
	@.ci/packages bench_aead
	$(PYTHON) bench/aead.py $(ARGS)

bench-compare: build $(VENV)/.bench ## Tunnels of wgfast beside those of other implementations, as root (ARGS=--quick, ...)
	@$(PYTHON) bench/compare.py --get-peers
	$(PYTHON) bench/compare.py --json build/compare/compare.json --markdown build/compare/compare.md --plot build/compare $(ARGS)

clean: ## Remove everything that was built
	rm -rf build dist *.egg-info $(VENV) wgfast/_core.c wgfast/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

check-c: $(patsubst wgfast/core/%.c,build/warnings/%.o,$(wildcard wgfast/core/*.c))

build/warnings/%.o: wgfast/core/%.c $(wildcard wgfast/core/*.h)
	@mkdir -p $(@D)
	@gcc -std=c11 -D_GNU_SOURCE -O2 $(C_WARNINGS) -c $< -o $@

test-tools:
	@.ci/packages test

$(VENV)/.python:
	@.ci/packages build
	python3 -m venv $(VENV)
	$(PIP) install 'setuptools>=77' wheel 'Cython>=3.1' numpy
	@touch $@

$(VENV)/.installed: pyproject.toml setup.py | $(VENV)/.python
	$(PIP) install --no-build-isolation -e .
	@touch $@

$(VENV)/.built: $(SOURCES) $(VENV)/.installed
	$(PYTHON) setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.test $(VENV)/.bench: $(VENV)/.installed
	$(PIP) install 'wgfast[$(if $(filter %bench,$@),bench,test,dev,metrics)]'
	@touch $@
