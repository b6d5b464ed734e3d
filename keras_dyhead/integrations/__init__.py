"""Integrations of keras_dyhead."""
