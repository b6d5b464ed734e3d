"""The sampler and the tower next to torchvision's, on the CPU: `python -m benchmarks.sampling`."""
