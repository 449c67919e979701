# On a fresh Linux machine with Python, a C++ compiler and make:
#   make quickstart   train, distil, export, verify and report on an embedded data set
#   make test         build and run the tests: under 25 minutes on two cores
# To work on the code (CONTRIBUTING.md): make dev, then make build, test-fast and lint.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/editable

# CUDA for two architectures keeps the build short.
CUDA_ARCHITECTURES ?= 80-real;90-real
CPP_SOURCES := $(shell find csrc -type f)

# What is shown as a site, or linked to.
PAGES := README.md CONTRIBUTING.md CHANGELOG.md .ci .github docs examples benchmarks edufast tests

.PHONY: quickstart test test-fast test-all lint docs sanitize soak triton-oldest lowest sbom edge-table gpu-check dev build clean FORCE

quickstart: build
	$(BIN)/edufast train quickstart

# One thread a worker: OpenMP threads that outnumber the cores wait for each other most of the time. Files
# in their order: xdist would take those of few tests last, which are slow, and one worker would wait.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Every test, but not the longest, and of large grids every third case (tests/tiers.py).
test: build
	$(PYTEST) --sample

# Every case of every test: before a release, and every night.
test-all: build
	$(PYTEST)

# Without the tests marked slow, and the first case only of every other: under a minute.
test-fast: build
	$(PYTEST) --fast

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP_SOURCES) examples/device/*.cpp
	$(BIN)/codespell
	$(BIN)/mypy

# These pages and the reference as a site in build/site; a link that leads nowhere is an error.
docs: $(VENV)/docs
	rm -rf build/pages
	mkdir -p build/pages
	cp -r --parents --target-directory build/pages $(PAGES)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer.
sanitize: build
	tools/sanitize.sh

# An hour of trainings on two processes that are killed and resumed at random: MINUTES=60.
soak: build
	OMP_NUM_THREADS=1 $(BIN)/python tools/soak.py --minutes $(or $(MINUTES),60)

# The kernels in Triton under the oldest version that they have to compile with, of torch 2.11.
triton-oldest: build/triton-3.6 build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/ops/test_triton_oldest.py

build/triton-3.6: | $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-deps --target $@ 'triton==3.6.*'

# Three students as files for the edge (docs/edge.md): trained, exported, measured on this machine. With
# CIFAR100=FOLDER, one of photographs among them.
edge-table: build
	$(BIN)/python benchmarks/edge/table.py runs/edge $(CIFAR100)

# The tests of `make test-fast`, and a recipe, with the lowest versions that pyproject.toml allows, torch 2.11
# among them: an environment of its own, of 7 GB.
lowest: build/lowest/built
	OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest -n 2 --dist loadfile --fast
	build/lowest/bin/edufast train digits -o build/lowest/run

build/lowest/built: tools/lowest.py pyproject.toml build
	$(PYTHON) -m venv --clear build/lowest
	$(BIN)/python tools/lowest.py cli train export timm arrow | sort -u > build/lowest/requirements.txt
	grep -E '^(cmake|hypothesis|ninja|pytest|pytest-xdist|scikit-build-core)==' requirements.txt \
	  >> build/lowest/requirements.txt
	build/lowest/bin/python -m pip install --quiet -r build/lowest/requirements.txt
	CMAKE_ARGS=-DEDUFAST_CUDA=OFF build/lowest/bin/python -m pip install --quiet --no-deps --no-build-isolation \
	  --config-settings=build-dir=build/lowest/cmake --editable .
	touch $@

# What an environment of `make` consists of, with versions and licences: build/sbom.json (CycloneDX).
sbom: build/sbom-tool/installed build
	build/sbom-tool/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library \
	  --output-reproducible --output-file build/sbom.json $(BIN)/python

build/sbom-tool/installed:
	$(PYTHON) -m venv build/sbom-tool
	build/sbom-tool/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	touch $@

# On a machine with a CUDA device; needs no network and no virtual environment.
gpu-check:
	tools/gpu_check.sh

# The build, and the checks of `make lint` on every commit.
dev: build
	$(BIN)/pre-commit install

build: $(VENV)/built

# Byte code by all processors, where pip takes one; some packages hold files for other Pythons.
$(VENV)/installed: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $@

$(VENV)/docs: docs/requirements.txt | $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
	touch $@

# An editable install knows the Python files by name: it is repeated when one comes, goes or moves.
$(VENV)/editable: $(VENV)/installed $(VENV)/python-files pyproject.toml
	CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES='$(CUDA_ARCHITECTURES)' $(CMAKE_ARGS)" \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --no-build-isolation --config-settings=build-dir=$(BUILD) --editable .
	touch $@

$(VENV)/python-files: $(VENV)/installed FORCE
	@find edufast kernels -name '*.py' | sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

# Compiles only what changed, and puts the libraries where the editable install looks for them.
$(VENV)/built: $(VENV)/editable CMakeLists.txt $(wildcard cmake/*) $(CPP_SOURCES)
	$(BIN)/python -m cmake --build $(BUILD)
	$(BIN)/python -m cmake --install $(BUILD) --prefix \
	  "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
	touch $@

clean:
	rm -rf build $(VENV)/editable $(VENV)/built
