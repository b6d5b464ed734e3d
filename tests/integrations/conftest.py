"""Settings for tests that compile whole detectors with XLA."""

import os

# What is compiled matters here, not how fast it runs: this halves compile time.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
