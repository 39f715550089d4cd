# Two commands set everything up: `make demo` and `make test`. Both create .venv and install into it what
# pyproject.toml asks for, in the versions of constraints.txt; the second time they start at once.

VENV := .venv
PYTHON := $(shell for p in python3 python3.13 python3.12 python3.11; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; \
	then echo $$p; break; fi; done)
BIN := $(VENV)/bin
# A torch chosen by the user's own pip constraints stands; everything else is pinned.
PINS := $(if $(PIP_CONSTRAINT),$(VENV)/constraints.txt,constraints.txt)

.PHONY: demo test lint types tests docs packages browser clean

# System packages of the emulated ARM device and of OpenCL on this CPU: installed by root where there is apt.
PACKAGES := qemu-user g++-aarch64-linux-gnu pocl-opencl-icd ocl-icd-opencl-dev opencl-headers
# The browser that pages are laid out in (206 MB) is left to CI: without one, those tests are skipped.
BROWSER := chromium-headless-shell

demo: $(VENV)/installed
	$(BIN)/ofa-tvm quickstart -o demo

test: lint types docs tests

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed
	$(BIN)/mypy ofa_tvm

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "open site/index.html: the pages, their links and their search need no server and no network"

tests: packages $(VENV)/installed $(if $(CI),$(VENV)/cuda browser)
	$(BIN)/python -m pytest

packages: WANTED := $(PACKAGES)
browser: WANTED := $(BROWSER)
packages browser:
	@dpkg -s $(WANTED) >/dev/null 2>&1 || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		{ apt-get install -qq -y $(WANTED) || { apt-get update -qq && apt-get install -qq -y $(WANTED); }; } \
		>/dev/null 2>&1; } || \
		echo "not all of $(WANTED) are installed and cannot be here: tests that need them are skipped"

# The extra `cuda` (NVRTC and headers, 240 MB installed) is left to CI: without it, tests that build for CUDA are
# skipped, each naming what to install; `make test CI=true` brings it in.
$(VENV)/cuda: $(VENV)/installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e '.[cuda]' && touch $@ || \
		echo "the extra cuda cannot be installed here: tests that build for CUDA are skipped"

$(VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed and none is on the PATH"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if [ -n "$(PIP_CONSTRAINT)" ]; then grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt; fi
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) -e '.[dev,docs]'
	@# A compiler driver links modules; a machine without one gets it from the package index.
	@command -v c++ g++ clang++ gcc clang >/dev/null || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(PINS) ziglang
	touch $@

clean:
	rm -rf $(VENV) demo site .mypy_cache .ruff_cache .pytest_cache
