"""The public names, and what importing them brings along."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_dyhead

ROOT = Path(__file__).parents[1]


# Names of classes that Keras does not know.
UNKNOWN = """
{"SwinBackbone", "ATSS", "DyHeadNeck", "RegularizedSGD"}
.difference(name.split(">")[-1] for name in keras.saving.get_custom_objects())
"""


def run_python(code):
    """Runs code in a fresh process and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("minor", [10, 11, 12, 13])
def test_no_supported_python_is_excluded(minor):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options"]["python_requires"] == ">=3.10"
    classifiers = config["metadata"]["classifiers"]
    assert f"Programming Language :: Python :: 3.{minor}" in classifiers.splitlines()


def test_type_checkers_see_the_public_names():
    """They do not see those that are imported on first use."""
    tree = ast.parse(Path(keras_dyhead.__file__).read_text())
    (seen,) = (node.body for node in tree.body if isinstance(node, ast.If) and node.orelse)
    names = [alias.name for statement in seen for alias in statement.names]
    assert sorted(["__version__", *names]) == sorted(keras_dyhead.__all__)


def test_what_importing_the_package_brings_along(tmp_path):
    """Keras then loads its models; its rooms come when they are used, no optional extra does."""
    from keras_dyhead.layers import DyHeadNeck
    from keras_dyhead.optimizers import LinearWarmup, RegularizedSGD

    inputs = {"P3": keras.Input((None, None, 16)), "P4": keras.Input((None, None, 16))}
    model = keras.Model(inputs, DyHeadNeck(1, 16)(inputs))
    steps = keras.optimizers.schedules.PiecewiseConstantDecay([59], [0.01, 0.001])
    model.compile(RegularizedSGD(LinearWarmup(steps, 10)), "mse")
    model.save(tmp_path / "model.keras")
    code = f"""
import keras_dyhead, tensorflow
import sys, keras
print({UNKNOWN})
model = keras.saving.load_model({str(tmp_path / "model.keras")!r})
print(type(model.layers[-1]).__name__, type(model.optimizer).__name__)
rooms = ["checkpoints", "coco", "export", "inference", "integrations", "training", "visualization"]
print([room for room in rooms if f"keras_dyhead.{{room}}" in sys.modules])
print(set(rooms) <= set(dir(keras_dyhead)), keras_dyhead.coco.load_coco.__name__)
print(keras_dyhead.export_onnx.__name__, hasattr(keras_dyhead, "cooc"))
[getattr(keras_dyhead, name) for name in keras_dyhead.__all__]
print(sorted({{"keras_cv", "torch", "torchvision"}} & set(sys.modules)))
"""
    assert run_python(code).splitlines() == [
        *("set()", "DyHeadNeck RegularizedSGD", "[]", "True load_coco", "export_onnx False", "[]")
    ]


def test_keras_knows_the_classes_on_another_backend(monkeypatch):
    """And no framework is imported but the backend."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    code = f"""
from keras_dyhead.layers import DyHeadNeck
import sys, keras, keras_dyhead
print({UNKNOWN})
keras_dyhead.detectors
print("tensorflow" in sys.modules)
"""
    assert run_python(code).splitlines() == ["set()", "False"]


def test_ops_import_no_framework_but_keras():
    """TensorFlow may be imported inside a function, where it is the backend."""
    for path in (ROOT / "keras_dyhead" / "ops").glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                module = line.split()[1]
                allowed = {"keras", "numpy", "PIL", *sys.stdlib_module_names}
                ours = module.startswith("keras_dyhead.ops.")
                assert ours or module.split(".")[0] in allowed, (path.name, line)
