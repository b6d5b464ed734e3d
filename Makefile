# Each target works by itself on a fresh machine with Python (3.10 to 3.13) and make.
# pip does not compile the 20 000 installed files; Python compiles the needed ones on first import.
PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Tests that also run on JAX and PyTorch, in separate processes.
ON_EVERY_BACKEND = tests/ops tests/layers tests/checkpoints/test_tower.py \
	$(wildcard tests/*/test_every_backend.py)
# The core: it changes most often, and everything else depends on it.
CORE = tests/test_rooms.py tests/ops tests/layers tests/detectors
# The slowest tests of the core: only `make test` runs them.
LONG_IN_CORE = tests/detectors/test_replicas.py $(wildcard tests/detectors/test_saved_*.py) \
	$(addprefix tests/layers/test_,determinism.py sampling_roads.py shared_trace.py)
# Tests that JAX compiles for minutes: only `make test-slow` runs them.
LONG_ON_JAX = $(addprefix tests/layers/test_,block_trace.py determinism.py dyhead_neck.py shared_trace.py start.py)
# Tests that compile whole detectors run separately: TensorFlow frees compiled code only at exit.
WHOLE_DETECTORS = tests/detectors tests/export tests/integrations

.PHONY: help demo check test test-slow docs notebooks bench clean

help:
	@echo "make demo       train, evaluate and export a small ATSS + DyHead on drawn shapes (runs/demo)"
	@echo "make check      lint, and test operations, layers and detectors (3 minutes on two cores)"
	@echo "make test       lint, build the documentation, and test (12 minutes on two cores)"
	@echo "make test-slow  run the tests that take minutes each"
	@echo "make docs       build the documentation into site/ and fail on warnings"
	@echo "make notebooks  run the notebooks and save their outputs (minutes each on two cores)"
	@echo "make bench      compare sampler and tower with torchvision (separate environment, large download)"
	@echo "make clean      remove environments and build products"

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --no-compile --editable '.[dev,docs,kerascv]'
	touch $@

$(BENCH_VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH_VENV)/bin/python -m pip install --quiet --no-compile --editable '.[bench]'
	touch $@

demo: $(VENV)/installed
	$(VENV)/bin/keras-dyhead demo --out runs/demo --overwrite

check: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist worksteal $(CORE) $(LONG_IN_CORE:%=--ignore=%)

# Tests of a file stay in one process because they share slow setup. Slow folders come first.
test: docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(WHOLE_DETECTORS)
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile tests/training tests/visualization tests $(WHOLE_DETECTORS:%=--ignore=%)
	KERAS_BACKEND=jax $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(ON_EVERY_BACKEND) $(LONG_ON_JAX:%=--ignore=%)
	KERAS_BACKEND=torch $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(ON_EVERY_BACKEND)

# Here JAX and TensorFlow optimize what they compile, as for users.
test-slow: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m slow
	KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(VENV)/bin/python -m pytest -m 'slow or not slow' $(ON_EVERY_BACKEND)
	KERAS_BACKEND=torch $(VENV)/bin/python -m pytest -m slow $(ON_EVERY_BACKEND)

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# No timing metadata, which would change with every run. TensorFlow's C++ logs go to the console.
notebooks: $(VENV)/installed
	rm -rf notebooks/runs
	JUPYTER_PREFER_ENV_PATH=1 $(VENV)/bin/python -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.extra_arguments=--IPKernelApp.capture_fd_output=False \
		notebooks/*.ipynb

bench: $(BENCH_VENV)/installed
	$(BENCH_VENV)/bin/python -m benchmarks.sampling --out benchmarks/sampling

clean:
	rm -rf $(VENV) $(BENCH_VENV) build dist runs notebooks/runs site *.egg-info
