"""The package is built in rooms, one above the other: imports point downwards only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_dyhead"
ROOMS = (
    *("cli", "training", "recipes", "inference", "export", "visualization", "coco"),
    *("checkpoints", "integrations", "registration", "detectors", "backbones"),
    *("layers", "optimizers", "ops", "needs", "printable", "version"),
)
"""From the roof down. What a room needs of another lies below it."""


def imports(source, package):
    """Yields the line and the dotted name of all that a module imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else ()), *filter(None, [node.module])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def upward_imports(source, module):
    """The imports of a module, such as `keras_dyhead.coco.dataset`, that point upwards."""
    package, room = module.rpartition(".")[0], module.split(".")[1]
    for line, name in imports(source, package):
        parts = name.split(".")
        if parts[0] != "keras_dyhead" or len(parts) == 1:
            continue
        if parts[1] not in ROOMS or ROOMS.index(parts[1]) < ROOMS.index(room):
            yield f"{module}:{line} imports {name}"


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        names = path.relative_to(ROOT).with_suffix("").parts
        if names != ("keras_dyhead", "__init__"):  # it stands above them all
            yield path, ".".join(names)


def test_every_room_is_in_the_list():
    found = {module.split(".")[1] for _, module in modules()}
    assert found == set(ROOMS)


def test_imports_point_downwards():
    upwards = [
        found for path, module in modules() for found in upward_imports(path.read_text(), module)
    ]
    assert not upwards, "\n".join(upwards)


@pytest.mark.parametrize(
    "statement",
    [
        "import keras_dyhead.training",
        "from keras_dyhead import training",
        "from keras_dyhead.inference import read_rgb",
        "from ..inference import read_rgb",
        "def lazily():\n    from keras_dyhead.visualization import plot_attention",
    ],
)
def test_an_upward_import_is_found(statement):
    (found,) = upward_imports(f"from keras_dyhead import ops\n{statement}", "keras_dyhead.coco.x")
    assert "keras_dyhead.coco.x" in found


def test_no_module_outside_the_tests_has_the_name_of_a_test():
    assert not [module for _, module in modules() if module.rsplit(".", 1)[1].startswith("test_")]
