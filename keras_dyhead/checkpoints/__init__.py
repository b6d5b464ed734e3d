"""Checkpoints of keras_dyhead."""
