"""What detectors cost, and how they compare with those of torchvision."""
