"""Checks for optional dependencies."""

import importlib.util


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed."""
    return importlib.util.find_spec("tensorflow") is not None


def need_tensorflow(part: str) -> None:
    """Checks that TensorFlow can be imported.

    Args:
        part: What needs TensorFlow, such as `"keras_dyhead.export"`.

    Raises:
        ImportError: If TensorFlow cannot be imported.
    """
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{part} needs TensorFlow, even if Keras uses another backend: pip install tensorflow"
        ) from error
