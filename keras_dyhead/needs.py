"""What some rooms need beside Keras and its backend, said in one sentence."""

import importlib.util


def has_tensorflow() -> bool:
    """Whether TensorFlow is installed."""
    return importlib.util.find_spec("tensorflow") is not None


def need_tensorflow(part: str) -> None:
    """Checks that TensorFlow can be imported.

    Args:
        part: What needs it, such as `"keras_dyhead.export"`.

    Raises:
        ImportError: If it cannot.
    """
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{part} needs TensorFlow, also where Keras runs on another backend: "
            "pip install tensorflow"
        ) from error
