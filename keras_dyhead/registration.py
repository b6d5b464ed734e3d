"""Registers this package's classes with Keras once both are imported, in either order.

`keras.saving.load_model` finds only registered classes. Registering them imports Keras, which takes
seconds, and the command line must answer `--help` without it.
"""

import importlib
import importlib.abc
import sys

REGISTERING = ("backbones", "detectors", "layers", "ops", "optimizers")
"""Subpackages with serializable classes."""

NEEDING_KERAS = (
    *REGISTERING,
    *("checkpoints", "coco", "export", "inference", "integrations", "training"),
    "visualization",
)
"""Subpackages whose import needs Keras."""


def register_with_keras() -> None:
    """Imports `REGISTERING` now if Keras is imported, else right after Keras is."""
    if "keras" in sys.modules:
        _import_rooms()
    else:
        sys.meta_path.insert(0, _FirstImport())


def _import_rooms() -> None:
    for room in REGISTERING:
        importlib.import_module(f"keras_dyhead.{room}")


class _FirstImport(importlib.abc.MetaPathFinder):
    """Lets the first import of Keras, or of a subpackage that needs it, register our classes."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, room = fullname.partition(".")
        if fullname != "keras" and (package != "keras_dyhead" or room not in NEEDING_KERAS):
            return None
        finders = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(fullname, path, target) for finder in finders)
        spec = next(filter(None, found), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                first = self in sys.meta_path
                if first:  # its own imports need no hook
                    sys.meta_path.remove(self)
                execute(module)
                if first:
                    _import_rooms()

            spec.loader.exec_module = exec_module
        return spec
