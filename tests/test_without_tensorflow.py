"""What needs no TensorFlow works where there is none; the rest says so in one sentence."""

import os
import subprocess
import sys

import pytest
from docs.pages import ROOT, blocks_of

pytestmark = pytest.mark.tensorflow  # in processes of its own, whatever this one runs on

ABSENT = '''
import importlib, sys


class Present:
    """The finders of modules, of which TensorFlow is none."""

    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            return None
        found = (finder.find_spec(name, path, target) for finder in self.finders)
        return next(filter(None, found), None)


sys.meta_path[:] = [Present(sys.meta_path[:])]
'''
IMPORTS = """
for room in ("ops", "layers", "backbones", "detectors", "optimizers", "checkpoints", "recipes",
             "integrations.keras_hub", "coco", "inference", "visualization", "cli"):
    importlib.import_module(f"keras_dyhead.{room}")
exec("from keras_dyhead import *; from keras_dyhead.coco import *; CocoDataset, inference")
names = ("load_coco", "Augmentation")
for room, name in (("export", ""), ("training", ""), *(("coco", name) for name in names)):
    try:
        getattr(importlib.import_module(f"keras_dyhead.{room}"), name)
    except ImportError as error:
        needs = "needs TensorFlow, even if Keras uses another backend: pip install tensorflow"
        assert str(error) == ".".join(filter(None, ("keras_dyhead", room, name))) + f" {needs}"
    else:
        raise AssertionError(room)
try:
    keras_dyhead.visualization.TensorBoardLog("logs")
except ImportError as error:
    assert str(error).startswith("TensorBoardLog needs TensorFlow")
else:
    raise AssertionError("TensorBoardLog")
"""
COMMAND = """
from typer.testing import CliRunner
from keras_dyhead.cli import app
files = ["--images", "shapes/images", "--annotations", "shapes/instances.json"]
done = CliRunner().invoke(app, ["convert", "list"])
assert done.exit_code == 0 and "atss_r50_fpn_dyhead_1x_coco" in done.output, done.output
done = CliRunner().invoke(app, ["train", *files, "--out", "run"])
assert done.exit_code == 2 and "keras_dyhead.training needs TensorFlow" in done.output, done.output
"""
COMPILED_ONCE = """
import jax, numpy
from keras_dyhead.detectors import DetectionPreprocessor
events = []
jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: events.append(name))
for resizing in ("fast", "pillow", "opencv"):
    sides = dict(min_side=40, max_side=60, pad_multiple=96)  # a canvas that is new here
    preprocessor = DetectionPreprocessor(**sides, resizing=resizing)
    for height in (30, 31, 32):
        before = sum("backend_compile" in name for name in events)
        preprocessor([numpy.zeros((height, 40, 3), "uint8")])
    assert 0 < before == sum("backend_compile" in name for name in events), events
"""


def run_without_tensorflow(code, backend, folder):
    """Runs code in a fresh process that cannot import TensorFlow, and returns what it prints."""
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", ABSENT + code],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_pytorch_imports_all_but_what_needs_tensorflow(tmp_path):
    run_without_tensorflow("import keras_dyhead\n" + IMPORTS, "torch", tmp_path)


@pytest.mark.slow
def test_jax_runs_what_the_page_shows(tmp_path):
    blocks = blocks_of(ROOT / "docs" / "backends.md")
    (shown,) = [b.code for b in blocks if b.language == "python" and b.reason is None]
    code = f"import keras_dyhead\n{IMPORTS}{shown}{COMMAND}{COMPILED_ONCE}"
    figures, count = run_without_tensorflow(code, "jax", tmp_path).splitlines()[-2:]
    assert len(figures.split(",")) == 2 and count.endswith("found")
    assert (tmp_path / "atss.keras").is_file()
