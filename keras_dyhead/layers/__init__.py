"""Layers of keras_dyhead."""
