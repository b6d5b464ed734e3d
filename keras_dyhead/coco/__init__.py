"""Coco of keras_dyhead."""
