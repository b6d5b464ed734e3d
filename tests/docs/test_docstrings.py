"""Examples in public docstrings run and print what they show."""

import doctest
import importlib
import inspect
import re
import shutil

import pytest
import tensorflow as tf
from docs.assumed import assumed_names
from docs.reader import write_files, write_published_files

pytestmark = pytest.mark.tensorflow

PACKAGES = (
    "backbones",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("checkpoints", "coco", "detectors", "export", "inference")
        + ("training", "visualization")
    ),
)
"""Packages with examples in code blocks."""
DOCTESTED = (
    pytest.param("integrations.keras_cv", marks=pytest.mark.slow),
    *("checkpoints", "integrations.keras_hub", "layers", "ops"),
    *("optimizers", "recipes", "training"),
)
"""Packages with doctest examples."""
NOT_RUN = {
    "PseudoLabels": "a model with random weights has no confident detections; see tests/inference",
}
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
_DOCTEST = re.compile(r"(?m)^>>> .*(?:\n\S.*)*")
_WORDS = re.compile(r"-?\d+(?:\.\d*)?(?:e-?\d+)?|'\w+'|None|True|False")


def objects(package):
    """Returns the public classes and functions of a package by name."""
    module = importlib.import_module(f"keras_dyhead.{package}")
    values = {name: getattr(module, name) for name in module.__all__}
    return {name: v for name, v in values.items() if inspect.isclass(v) or inspect.isfunction(v)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_examples_run(package, files, tmp_path, monkeypatch, request):
    shutil.copytree(files, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    if package == "checkpoints":
        write_published_files(tmp_path / "files")
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "files"))
    examples = [
        (name, code)
        for name, value in objects(package).items()
        for code in _PYTHON.findall(inspect.getdoc(value))
        if name not in NOT_RUN
    ]
    assert examples
    # Tracing whole detectors takes gigabytes.
    tf.config.run_functions_eagerly(package != "export")
    request.addfinalizer(lambda: tf.config.run_functions_eagerly(False))
    for name, code in examples:
        exec(compile(code, name, "exec"), public_names(package) | assumed_names(code))


@pytest.mark.parametrize("package", DOCTESTED)
def test_examples_print_what_they_say(package, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = [
        (name, re.sub(r"(?<=doctest: \+SKIP).*", "", example))
        for name, value in objects(package).items()
        for example in _DOCTEST.findall(inspect.getdoc(value))
    ]
    assert examples
    for name, example in examples:
        run_doctest(name, example, public_names(package))


def public_names(package):
    """Returns the names that examples may use: public names, Keras and NumPy."""
    names = {}
    rooms = ("backbones", "checkpoints", "coco", "detectors", "export", "inference", "layers")
    for room in (*rooms, "ops", "training", package):
        module = importlib.import_module(f"keras_dyhead.{room}")
        names |= {name: getattr(module, name) for name in module.__all__}
    for name in ("json", "keras", "keras_hub", "keras_cv", "onnxruntime", "keras.ops"):
        names[name.split(".")[-1]] = importlib.import_module(name)
    names |= {"np": importlib.import_module("numpy"), "tf": tf}
    return names | {"Path": importlib.import_module("pathlib").Path}


class SameWords(doctest.OutputChecker):
    """Compares numbers and names, but not how a backend prints tensors."""

    def check_output(self, want, got, optionflags):
        got = re.sub(r"dtype=\w+|shape=\([^)]*\)|numpy=|float32|int32", "", got)
        found, expected = _WORDS.findall(got), _WORDS.findall(want)
        return len(found) == len(expected) and all(map(same, found, expected))


def same(one, other):
    try:
        return abs(float(one) - float(other)) < 1e-5
    except ValueError:
        return one == other


def run_doctest(name, example, names):
    test = doctest.DocTestParser().get_doctest(example + "\n", names, name, None, 0)
    runner = doctest.DocTestRunner(SameWords(), verbose=False)
    output = []
    assert not runner.run(test, out=output.append, clear_globs=False).failed, "".join(output)
