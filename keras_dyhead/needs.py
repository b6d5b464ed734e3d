"""Checks for optional dependencies."""

import importlib.util


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed."""
    return importlib.util.find_spec("tensorflow") is not None


def need_tensorflow(part: str) -> None:
    """Raises an `ImportError` if TensorFlow cannot be imported. `part` is what needs it."""
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{part} needs TensorFlow, even if Keras uses another backend: pip install tensorflow"
        ) from error
