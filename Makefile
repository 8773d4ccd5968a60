# SPDX-License-Identifier: MIT
# Everything a fresh machine needs is python3 >= 3.11 and a C compiler: `make demo` and `make test`
# create .venv, build, install and run. PIP_* variables and pip's own configuration are respected.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=
ARGS ?=
# Tests compare numbers, not speed: few BLAS threads, so that two cores are not fought over.
LIMITED := OPENBLAS_NUM_THREADS=2 OMP_NUM_THREADS=2
# Processes share the tests; --pdb and PYTEST_ARGS="-n 0" have one.
PYTEST := $(LIMITED) $(PY) -m pytest -n auto --maxprocesses 8
PYTHON_FILES := setup.py .ci fastlstm $(wildcard docs tests benchmarks examples)
C_FILES = $(wildcard csrc/*.c csrc/*.h)
CYTHON_FILES = $(wildcard fastlstm/*.pyx fastlstm/*.pxd)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

.PHONY: help
help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

.PHONY: preflight
preflight:
	@command -v "$(PYTHON)" > /dev/null || { echo "fastlstm: $(PYTHON) was not found; Python >= 3.11 is needed (or choose one: make PYTHON=/path/to/python3 ...)" >&2; exit 1; }
	@"$(PYTHON)" .ci/preflight.py

# The environment: one stamp per extra, made again when the dependencies change.
$(VENV)/.created: | preflight
	@echo "creating $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); echo "fastlstm: $(PYTHON) -m venv failed (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@touch $@

$(VENV)/.build: pyproject.toml $(VENV)/.created
	@echo "installing what the build needs"
	@$(PY) -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires'], sep='\n')" > $(VENV)/build-requires.txt
	@$(PIP) install -r $(VENV)/build-requires.txt
	@touch $@

# Editable: afterwards `build_ext --inplace` is all that a change in .pyx or .c needs.
$(VENV)/.extra-%: pyproject.toml $(VENV)/.build
	@echo "building and installing fastlstm[$*]"
	@$(PIP) install --no-build-isolation --editable ".[$*]"
	@touch $@

.PHONY: build
build: $(VENV)/.build ## Build the extension modules in place, only what changed
	@$(PY) setup.py -q build_ext --inplace

.PHONY: demo
demo: $(VENV)/.extra-demo build ## Forecast real stock prices; writes forecast.png
	$(PY) -m fastlstm demo $(ARGS)

.PHONY: test
test: $(VENV)/.extra-test build ## Run the tests, the docstrings' examples and the C driver (PYTEST_ARGS="-k lengths")
	$(PYTEST) --dist worksteal --doctest-modules --doctest-ignore-import-errors tests fastlstm $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory kernels

.PHONY: test-slow
test-slow: $(VENV)/.extra-learn build ## Run the slow tests, on data that packages ship
	$(PYTEST) --dist loadfile -m "slow and not parity" tests $(PYTEST_ARGS)

.PHONY: parity
parity: $(VENV)/.extra-parity build ## Compare with PyTorch and ONNX Runtime, live
	$(PYTEST) --dist worksteal -m parity tests $(PYTEST_ARGS)

.PHONY: bench
bench: $(VENV)/.extra-bench build ## Time the cases beside the peers that are installed (make parity installs them)
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(PY) -m benchmarks.report $(ARGS)

.PHONY: kernels
kernels: preflight ## Build and run the C drivers csrc/test_*.c, without Python
	$(MAKE) --no-print-directory -C csrc

.PHONY: sanitize
sanitize: $(VENV)/.extra-test ## Run C, extensions and tests under sanitizers and valgrind (ARGS=--full: all tests)
	PY=$(PY) .ci/sanitize $(ARGS)

.PHONY: coverage
coverage: $(VENV)/.extra-test ## Show which lines and branches of csrc/ no test reaches
	$(PY) .ci/coverage.py $(ARGS)

.PHONY: mutation
mutation: $(VENV)/.extra-test ## Apply small faults one at a time; the tests must find each (ARGS="--sample 12")
	$(PY) .ci/mutate.py $(ARGS)

MINUTES ?= 30
.PHONY: soak
soak: $(VENV)/.extra-test build ## Compare random problems with the reference for MINUTES (30)
	OPENBLAS_NUM_THREADS=1 $(PY) tests/soak.py $(MINUTES) $(ARGS)

.PHONY: lint
lint: $(VENV)/.extra-dev ## Check style: ruff, cython-lint, clang-format
	$(PY) -m ruff check $(PYTHON_FILES)
	$(PY) -m ruff format --check $(PYTHON_FILES)
	$(if $(CYTHON_FILES),PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint $(CYTHON_FILES))
	$(if $(C_FILES),$(VENV)/bin/clang-format --dry-run -Werror $(C_FILES))

.PHONY: format
format: $(VENV)/.extra-dev ## Put Python and C into style
	$(PY) -m ruff check --fix $(PYTHON_FILES)
	$(PY) -m ruff format $(PYTHON_FILES)
	$(if $(C_FILES),$(VENV)/bin/clang-format -i $(C_FILES))

.PHONY: annotate
annotate: $(VENV)/.build ## Write build/annotate/*.html: which Cython lines call Python
	@mkdir -p build/annotate
	@for pyx in $(wildcard fastlstm/*.pyx); do \
	  $(VENV)/bin/cython -3 --annotate -I . $$pyx -o build/annotate/$$(basename $$pyx .pyx).c || exit 1; \
	done; ls build/annotate/*.html

.PHONY: wheel
wheel: $(VENV)/.build ## Build the sdist and the wheel into dist/
	@mkdir -p dist build
	@$(PY) -c "from setuptools import build_meta as b; b.build_sdist('dist')" > build/sdist.log
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .
	@ls -l dist

.PHONY: clean
clean: ## Remove what was built; .venv stays (make distclean removes it too)
	rm -rf build dist *.egg-info fastlstm/*.so .pytest_cache .hypothesis .ruff_cache .benchmarks
	find fastlstm tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2> /dev/null || true

.PHONY: distclean
distclean: clean
	rm -rf $(VENV)
