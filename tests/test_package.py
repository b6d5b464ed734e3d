"""The public names, and what importing them brings along."""

import configparser
import subprocess
import sys
from pathlib import Path

import keras
import pytest

ROOT = Path(__file__).parents[1]


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


def test_importing_the_package_lets_keras_load_its_models(tmp_path):
    from keras_dyhead.layers import DyHeadNeck

    inputs = {"P3": keras.Input((None, None, 16)), "P4": keras.Input((None, None, 16))}
    keras.Model(inputs, DyHeadNeck(1, 16)(inputs)).save(tmp_path / "model.keras")
    code = (
        "import keras, keras_dyhead; "
        f"model = keras.saving.load_model({str(tmp_path / 'model.keras')!r}); "
        "print(type(model.layers[-1]).__name__)"
    )
    assert run_python(code) == "DyHeadNeck"


def test_the_package_needs_no_optional_extra():
    """Neither KerasCV nor torch is imported along with the package and its integrations."""
    code = (
        "import sys, keras_dyhead, keras_dyhead.checkpoints, keras_dyhead.coco, "
        "keras_dyhead.integrations; "
        "print(sorted({'keras_cv', 'torch', 'torchvision'} & set(sys.modules)))"
    )
    assert run_python(code) == "[]"


def test_ops_import_no_framework_but_keras():
    """TensorFlow may be imported inside a function, where it is the backend."""
    for path in (ROOT / "keras_dyhead" / "ops").glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith(("import ", "from ")):
                module = line.split()[1]
                allowed = {"keras", "numpy", *sys.stdlib_module_names}
                ours = module.startswith("keras_dyhead.ops.")
                assert ours or module.split(".")[0] in allowed, (path.name, line)
