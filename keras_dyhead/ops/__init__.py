"""Ops of keras_dyhead."""
