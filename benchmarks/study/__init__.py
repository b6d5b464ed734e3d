"""Gain of DyHead and of each of its parts: `python -m benchmarks.study`."""
