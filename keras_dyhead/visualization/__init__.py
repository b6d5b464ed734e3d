"""Visualization of keras_dyhead."""
