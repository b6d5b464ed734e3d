# Each target works alone on a fresh machine with Python (3.10 to 3.13) and make.
# Of 20 000 installed files Python compiles those it needs when it first reads them.
PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
export TF_CPP_MIN_LOG_LEVEL ?= 2
# What runs on JAX and PyTorch, too, each in its own process.
ON_EVERY_BACKEND = tests/ops tests/layers tests/checkpoints/test_tower.py \
	$(wildcard tests/*/test_every_backend.py)
# What changes most often, and everything else is made of.
CORE = tests/test_rooms.py tests/ops tests/layers tests/detectors
# What takes longest of that: `make test` runs it.
LONG_IN_CORE = tests/detectors/test_replicas.py $(wildcard tests/detectors/test_saved_*.py) \
	tests/layers/test_determinism.py tests/layers/test_shared_trace.py
# What JAX compiles for minutes, and what shows less of it than the others do: `test-slow` runs it.
LONG_ON_JAX = $(addprefix tests/layers/test_,block_trace.py determinism.py dyhead_neck.py shared_trace.py start.py)
# What compiles whole detectors runs by itself: TensorFlow keeps what it compiled until a process ends.
WHOLE_DETECTORS = tests/detectors tests/export tests/integrations

.PHONY: help demo check test test-slow docs notebooks bench clean

help:
	@echo "make demo       train, evaluate and export a small ATSS + DyHead on drawn shapes (runs/demo)"
	@echo "make check      lint, and test operations and layers (3 minutes on two cores)"
	@echo "make test       lint and test"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make docs       build the documentation into site/, every warning an error"
	@echo "make notebooks  run the notebooks and keep their outputs (minutes each on two cores)"
	@echo "make bench      time the sampler and the tower against torchvision (own environment, large download)"
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

# The tests of a file stay together, as they share what takes long to make; files that take long come first.
test: docs
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(WHOLE_DETECTORS)
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile tests/training tests/visualization tests $(WHOLE_DETECTORS:%=--ignore=%)
	KERAS_BACKEND=jax $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(ON_EVERY_BACKEND) $(LONG_ON_JAX:%=--ignore=%)
	KERAS_BACKEND=torch $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(ON_EVERY_BACKEND)

# JAX compiles with all its optimizations here, as it does for users.
test-slow: $(VENV)/installed
	$(VENV)/bin/python -m pytest -m slow
	KERAS_BACKEND=jax JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(VENV)/bin/python -m pytest -m 'slow or not slow' $(ON_EVERY_BACKEND)
	KERAS_BACKEND=torch $(VENV)/bin/python -m pytest -m slow $(ON_EVERY_BACKEND)

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# Outputs keep no times of day, which would be new each time; what TensorFlow's C++ code logs goes to the console.
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
