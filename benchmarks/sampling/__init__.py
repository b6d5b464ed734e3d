"""Compares sampler and tower with torchvision's: `python -m benchmarks.sampling`."""
