"""Examples in the docstrings of public names run, and print what they say."""

import doctest
import importlib
import inspect
import re
import shutil

import pytest
from docs.reader import VALUES, small_defaults, smaller, value_of, write_files

pytestmark = pytest.mark.tensorflow

PACKAGES = (
    "backbones",
    "checkpoints",
    pytest.param("coco", marks=pytest.mark.slow),
    pytest.param("detectors", marks=pytest.mark.slow),
    pytest.param("export", marks=pytest.mark.slow),
    pytest.param("inference", marks=pytest.mark.slow),
    pytest.param("training", marks=pytest.mark.slow),
    pytest.param("visualization", marks=pytest.mark.slow),
)
"""Packages whose examples are ordinary code, run small."""
DOCTESTED = (
    pytest.param("integrations.keras_cv", marks=pytest.mark.slow),
    *("checkpoints", "integrations.keras_hub", "layers", "ops"),
    *("optimizers", "recipes", "training"),
)
"""Packages with examples that say what they print."""
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
_DOCTEST = re.compile(r"(?m)^>>> .*(?:\n\S.*)*")
_WORDS = re.compile(r"-?\d+(?:\.\d*)?(?:e-?\d+)?|'\w+'|None|True|False")


def objects(package):
    """Public names of a package and what they are, with a docstring of their own."""
    module = importlib.import_module(f"keras_dyhead.{package}")
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    values = {name: getattr(module, name) for name in names}
    return {name: v for name, v in values.items() if inspect.isclass(v) or inspect.isfunction(v)}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        small_defaults(patch)
        write_files(folder)
    return folder


@pytest.mark.parametrize("package", PACKAGES)
def test_examples_run(package, files, tmp_path, monkeypatch):
    shutil.copytree(files, tmp_path / "files")
    monkeypatch.chdir(tmp_path / "files")
    small_defaults(monkeypatch)
    examples = [
        (name, code)
        for name, value in objects(package).items()
        for code in _PYTHON.findall(inspect.getdoc(value))
    ]
    assert examples
    for name, code in examples:
        exec(compile(smaller(code), name, "exec"), namespace(package, code))


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
        run_doctest(name, example, namespace(package, "" if "SKIP" in example else example))


def namespace(package, code):
    """What an example may take for granted: its package, Keras and NumPy, and the reader's."""
    names = {}
    for module in ("layers", "backbones", "checkpoints", "coco", "coco.shapes", "detectors"):
        names |= vars(importlib.import_module(f"keras_dyhead.{module}"))
    for module in (package, "export", "inference", "ops"):
        names |= vars(importlib.import_module(f"keras_dyhead.{module}"))
    for name in ("json", "keras", "keras_hub", "keras_cv", "onnxruntime", "keras.ops"):
        names[name.split(".")[-1]] = importlib.import_module(name)
    names |= {"np": importlib.import_module("numpy"), "tf": importlib.import_module("tensorflow")}
    names["Path"] = importlib.import_module("pathlib").Path
    used = set(re.findall(r"\b[a-z_\d]+\b", code)) & set(VALUES)
    return names | {name: value_of(name, code) for name in used}


class SameWords(doctest.OutputChecker):
    """Compares numbers and names, not how a backend wraps them."""

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
