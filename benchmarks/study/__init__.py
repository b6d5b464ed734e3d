"""What DyHead and each of its parts gain: `python -m benchmarks.study`."""
