"""Cost of our detectors, compared with torchvision's."""
