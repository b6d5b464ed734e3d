"""Detectors of keras_dyhead."""
