# Two commands do everything on a fresh Linux machine with Python, a C++ compiler and make:
#   make quickstart   train, distil, export, verify and report on an embedded data set
#   make test         build and run the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The package is built once per change of its sources; CUDA for two architectures keeps that short.
CUDA_ARCHITECTURES ?= 80-real;90-real
SOURCES := CMakeLists.txt pyproject.toml $(wildcard cmake/*.cmake) $(shell find csrc -type f)

.PHONY: quickstart test lint sanitize gpu-check build clean

quickstart: build
	$(BIN)/edufast train quickstart

# One thread a worker: OpenMP threads that outnumber the cores wait for each other most of the time.
test: build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: build
	tools/sanitize.sh

# On a machine with a CUDA device; needs no network and no virtual environment.
gpu-check:
	tools/gpu_check.sh

build: $(VENV)/built

$(VENV)/installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/built: $(VENV)/installed $(SOURCES)
	CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES='$(CUDA_ARCHITECTURES)'" $(BIN)/python -m pip install \
	  --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf build $(VENV)/built
