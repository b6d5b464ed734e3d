"""Dynamic Head (DyHead, CVPR 2021) for Keras 3."""

from keras_dyhead.version import __version__

__all__ = ["__version__"]
