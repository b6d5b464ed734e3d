"""Published checkpoints compute what the original implementations computed, on every backend.

The weights are generated from the tensors' names, here as there; `data/README.md` says what of
the originals' outputs is stored. Everything is held at 1e-4 of a level's standard deviation.
"""

import dataclasses
import json

import keras
import numpy as np
import pytest
from backend import run, to_numpy
from checkpoints.test_load_checkpoint import DATA, state_of
from PIL import Image

from keras_dyhead.checkpoints import COMPOSED, PUBLISHED, load_checkpoint

EXPECTED = json.loads((DATA / "expected.json").read_text())
LEVELS = ("P3", "P4", "P5", "P6", "P7")
TOLERANCE = 1e-4
SIZE = np.array([[192, 256]], "int32")
QUICK = "reppoints-moment_r50_fpn_1x_coco+dyhead"
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def is_quick(name):
    """Each takes ten seconds on TensorFlow: one of the models with DyHead added is enough."""
    return ON_TENSORFLOW and (name not in COMPOSED or name == QUICK)


def reference_input(name, model):
    """The reference image with the model's own normalization and without padding."""
    origin = (PUBLISHED | COMPOSED)[name].origin
    image = np.asarray(Image.open(DATA / f"{origin}.png"))
    if name == "dyhead_swint_atss_fpn_2x_ms":  # got the array of the others as RGB
        image = image[..., ::-1]
    return model.preprocessor.normalize(image[None])


def by_level(raw, key):
    """Splits a flat raw output into maps `(H, W, anchors * width)`."""
    maps, start = {}, 0
    values = np.asarray(raw[key])[0]
    sizes = np.asarray(raw["level_sizes"])
    per_cell = len(values) // int(np.sum(sizes[:, 0] * sizes[:, 1]))
    for level, (height, width) in zip(LEVELS, sizes, strict=True):
        rows = values[start : start + height * width * per_cell]
        maps[level] = rows.reshape(height, width, -1)
        start += height * width * per_cell
    return maps


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if is_quick(name) else pytest.mark.slow)
        for name in EXPECTED["score_thresholds"]
    ],
)
def test_pyramid_dyhead_raw_outputs_and_detections_are_the_originals(name):
    reference = np.load(DATA / f"{name}.npz")
    model = load_checkpoint(name, state_of(name))
    outputs = {"feature_pyramid": model.pyramid.output, "dyhead": model.neck.output}
    outputs["raw"] = model.output
    found = run(keras.Model(model.inputs[0], outputs), reference_input(name, model))
    raw = found.pop("raw")
    found = {layer: dict(zip(LEVELS, maps, strict=True)) for layer, maps in found.items()}
    found |= {key: by_level(raw, key) for key in raw if key != "level_sizes"}

    checked = 0
    for part, maps in found.items():
        for level, values in maps.items():
            expected, std = reference[f"{part}/{level}"], reference[f"std/{part}/{level}"]
            values = np.asarray(values).reshape(*expected.shape[:2], -1)
            values = values[..., :: -(-values.shape[-1] // expected.shape[-1])]
            assert np.abs(values - expected).max() <= TOLERANCE * std, (part, level)
            checked += 1
    assert checked == 5 * (2 + len(raw) - 1)

    raw = keras.tree.map_structure(keras.ops.convert_to_tensor, raw)
    for kind, threshold in EXPECTED["score_thresholds"][name].items():
        kind = kind.removeprefix("a/")
        model.decoder = dataclasses.replace(model.decoder, score_threshold=threshold)
        detections = to_numpy(model.decode(raw, SIZE))
        detections = {key: value[0] for key, value in detections.items()}
        count = len(reference[f"{kind}/labels"])
        assert detections["num_detections"] == count
        np.testing.assert_array_equal(detections["labels"][:count], reference[f"{kind}/labels"])
        for key, tolerance in (("boxes", 0.01), ("confidence", 1e-5)):
            np.testing.assert_allclose(
                detections[key][:count], reference[f"{kind}/{key}"], rtol=0, atol=tolerance
            )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if ON_TENSORFLOW else pytest.mark.slow)
        for name in EXPECTED["losses"]
        if "swin-l" not in name
    ],
)
def test_models_without_stored_maps_have_the_originals_losses(name):
    """The losses depend on all raw outputs."""
    model = load_checkpoint(name, state_of(name))
    raw = run(model, reference_input(name, model))
    expected = dict(EXPECTED["losses"][name])
    boxes = np.array([expected.pop("boxes")], "float32")
    labels = np.array([expected.pop("labels")], "int32")
    given = keras.tree.map_structure(keras.ops.convert_to_tensor, (raw, boxes, labels))
    losses = to_numpy(model.compute_losses(*given))
    assert set(losses) == set(expected)
    for key, value in losses.items():
        np.testing.assert_allclose(value, expected[key], rtol=2e-6, err_msg=key)
