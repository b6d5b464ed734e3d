"""Published checkpoints load completely and compute what the original implementations computed.

The weights are generated from the tensors' names, here as there; `data/README.md` says what of
the originals' outputs is stored. Everything is held at 1e-4 of a level's standard deviation.
"""

import dataclasses
import gzip
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from PIL import Image
from published_weights import published_state

from keras_dyhead.checkpoints import COMPOSED, PUBLISHED, load_checkpoint
from keras_dyhead.checkpoints.load_checkpoint import count_classes, fitting_names
from keras_dyhead.coco import COCO_CLASSES

DATA = Path(__file__).parent / "data"
NAMES = json.loads(gzip.decompress((DATA / "tensor_names.json.gz").read_bytes()))
EXPECTED = json.loads((DATA / "expected.json").read_text())
LEVELS = ("P3", "P4", "P5", "P6", "P7")
TOLERANCE = 1e-4
SIZE = np.array([[192, 256]], "int32")
QUICK = "reppoints-moment_r50_fpn_1x_coco+dyhead"


def state_of(name):
    """The generated checkpoint of a model."""
    undivided = (PUBLISHED | COMPOSED)[name].preprocessing["std"] == (1.0, 1.0, 1.0)
    return published_state(NAMES[name], stem_factor=1 / 64 if undivided else 1.0)


def reference_input(name, model):
    """The image of the reference, through the model's own normalisation, without padding."""
    origin = (PUBLISHED | COMPOSED)[name].origin
    image = np.asarray(Image.open(DATA / f"{origin}.png"))
    if name == "dyhead_swint_atss_fpn_2x_ms":  # given the array of the others, taken for RGB
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


# Ten seconds each: of the originals to which DyHead was added one will do in every run.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in COMPOSED and name != QUICK else ())
        for name in EXPECTED["score_thresholds"]
    ],
)
def test_pyramid_dyhead_raw_outputs_and_detections_are_the_originals(name):
    reference = np.load(DATA / f"{name}.npz")
    model = load_checkpoint(name, state_of(name))
    outputs = {"feature_pyramid": model.pyramid.output, "dyhead": model.neck.output}
    outputs["raw"] = model.output
    found = keras.Model(model.inputs[0], outputs)(reference_input(name, model))
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

    for kind, threshold in EXPECTED["score_thresholds"][name].items():
        kind = kind.removeprefix("a/")
        model.decoder = dataclasses.replace(model.decoder, score_threshold=threshold)
        detections = {key: np.asarray(value)[0] for key, value in model.decode(raw, SIZE).items()}
        count = len(reference[f"{kind}/labels"])
        assert detections["num_detections"] == count
        np.testing.assert_array_equal(detections["labels"][:count], reference[f"{kind}/labels"])
        for key, tolerance in (("boxes", 0.01), ("confidence", 1e-5)):
            np.testing.assert_allclose(
                detections[key][:count], reference[f"{kind}/{key}"], rtol=0, atol=tolerance
            )


@pytest.mark.parametrize("name", [n for n in EXPECTED["losses"] if "swin-l" not in n])
def test_models_whose_maps_are_not_stored_have_the_originals_losses(name):
    """The losses read all raw outputs: they are the originals' if these are."""
    model = load_checkpoint(name, state_of(name))
    raw = model(reference_input(name, model))
    expected = EXPECTED["losses"][name]
    boxes = np.array([expected.pop("boxes")], "float32")
    labels = np.array([expected.pop("labels")], "int32")
    losses = model.compute_losses(raw, boxes, labels)
    assert set(losses) == set(expected)
    for key, value in losses.items():
        np.testing.assert_allclose(value, expected[key], rtol=2e-6, err_msg=key)


@pytest.mark.slow
def test_swin_large_takes_every_tensor_of_its_checkpoint():
    """Without values, which would take long: arrays of one repeated number."""
    (name,) = (name for name in PUBLISHED if "swin-l" in name)
    state = {key: np.broadcast_to(np.float32(0.25), shape) for key, shape in NAMES[name].items()}
    model = load_checkpoint(name, state)
    assert model.count_params() == 210_361_014
    assert all(float(keras.ops.max(w)) == float(keras.ops.min(w)) == 0.25 for w in model.weights)


@pytest.mark.parametrize("name", PUBLISHED)
def test_records_say_what_was_published(name):
    record = PUBLISHED[name]
    aps = {39.9, 42.4, 40.3, 49.8, 43.3, 42.5, 56.2}
    assert {other.ap for other in PUBLISHED.values()} == aps and len(PUBLISHED) == 7
    assert record.source.startswith("https://") and record.source.endswith(".pth")
    small = 32 if name == "atss_r50_fpn_dyhead_1x_coco" else 128
    assert record.preprocessing["pad_multiple"] == (64 if "rcnn" in name else small)
    assert record.preprocessing["mean"][0] == (123.675 if "RGB" in str(record) else 103.53)


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(ValueError, match="dyhead_r50_atss_fpn_1x.*Received: 'atss'"):
        load_checkpoint("atss", {})


NAME = "dyhead_r50_atss_fpn_1x"


@pytest.fixture(scope="module")
def zeros():
    """The tensors of Microsoft's ATSS, all zero and taking no memory."""
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in NAMES[NAME].items()}


def test_every_problem_of_a_checkpoint_is_named(zeros):
    """Missing, superfluous and misshapen tensors at once; what older versions store is passed."""
    state = dict(zeros)
    del state["head.scales.3.scale"], state["backbone.backbone.bottom_up.res3.0.conv2.weight"]
    state["head.mystery.weight"] = np.zeros(3)
    state["head.cls_logits.bias"] = np.zeros(81)  # the scores say how many classes there are
    state["pixel_mean"] = np.zeros((3, 1, 1))
    state["anchor_generator.cell_anchors.0"] = np.zeros((1, 4))
    with pytest.raises(ValueError, match="nothing was loaded. Problems: 4") as error:
        load_checkpoint(NAME, state)
    for text in (
        "box_scale_P6: no tensor head.scales.3.scale in the state",
        "layer2_0_conv2/kernel: no tensor backbone.backbone.bottom_up.res3.0.conv2.weight",
        "head.mystery.weight: the model has no such weight",
        "class_logits/kernel: expected shape (1, 1, 256, 81), received (1, 1, 256, 80) from head.",
    ):
        assert text in str(error.value)


def test_the_checkpoint_of_another_model_is_refused(zeros):
    with pytest.raises(ValueError, match=r"need a neck with `use_bias=True`"):
        load_checkpoint("atss_r50_fpn_dyhead_1x_coco", zeros)
    with pytest.raises(ValueError, match=r"(?s)Problems: \d\d.*and \d+ more"):
        load_checkpoint("dyhead_r50_retina_fpn_1x", zeros)


def test_the_model_carries_its_preprocessing_and_class_names(zeros):
    """Sizes by detectron2's own rule for several images, from the configuration's manifest."""
    model = load_checkpoint(NAME, zeros)
    assert model.class_names == COCO_CLASSES and len(COCO_CLASSES) == 80
    assert COCO_CLASSES[0] == "person" and COCO_CLASSES[79] == "toothbrush"
    sizes = {
        (480, 640): ((800, 1067), (896, 1152)),
        (1080, 1920): ((750, 1333), (768, 1408)),
        (100, 1000): ((133, 1333), (256, 1408)),
        (375, 1242): ((402, 1333), (512, 1408)),
    }
    for size, (resized, padded) in sizes.items():
        assert model.preprocessor.resized_size(*size) == resized
        assert model.preprocessor.canvas_size([resized]) == padded
    pixel = np.array([[[[200, 100, 50]]]], "uint8")
    expected = [50 - 103.53, 100 - 116.28, 200 - 123.675]
    np.testing.assert_allclose(model.preprocessor.normalize(pixel)[0, 0, 0], expected, rtol=1e-6)


SCORES = {  # of each family: the layers with the scores and, where there is one, all classes' boxes
    "dyhead_r50_retina_fpn_1x": ("head.cls_score", None),
    "dyhead_r50_atss_fpn_1x": ("head.cls_logits", None),
    "dyhead_r50_rcnn_fpn_1x": (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    ),
    "atss_r50_fpn_dyhead_1x_coco": ("bbox_head.atss_cls", None),
    "retinanet_r50_fpn_1x_coco+dyhead": ("bbox_head.retina_cls", None),
    "fcos_r50-caffe_fpn_gn-head_1x_coco+dyhead": ("bbox_head.conv_cls", None),
    "reppoints-moment_r50_fpn_1x_coco+dyhead": ("bbox_head.reppoints_cls_out", None),
}


def with_classes(name, count):
    """The tensors of an own training: all zero, with other numbers of scores."""
    shapes = dict(NAMES[name])
    scores, boxes = SCORES[name]
    for layer, old, new in (
        (scores, 80 + (boxes is not None), count + (boxes is not None)),
        (boxes, 80, count),
    ):
        if layer is not None:
            rows = shapes[f"{layer}.bias"][0] // old * new
            shapes[f"{layer}.weight"] = [rows, *shapes[f"{layer}.weight"][1:]]
            shapes[f"{layer}.bias"] = [rows]
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("count", [1, 3, 100])
@pytest.mark.parametrize("name", SCORES)
def test_the_tensors_say_how_many_classes_there_are(name, count):
    assert count_classes((PUBLISHED | COMPOSED)[name], with_classes(name, count)) == count


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if "rcnn" in n else pytest.mark.slow) for n in SCORES],
)
def test_own_trainings_load_with_their_number_of_classes(name):
    model = load_checkpoint(name, with_classes(name, 3))
    assert model.num_classes == 3 and model.class_names is None


def test_names_come_from_the_file_if_they_are_as_many(tmp_path):
    state = {
        "model." + key: torch.zeros(()).expand(array.shape)
        for key, array in with_classes(NAME, 2).items()
    }
    torch.save({"state_dict": state, "meta": {"CLASSES": ("ant", "bee")}}, tmp_path / "mine.pth")
    assert load_checkpoint(NAME, tmp_path / "mine.pth").class_names == ("ant", "bee")
    assert fitting_names(["ant", "bee"], 2) == ["ant", "bee"]
    assert fitting_names(None, 2) is None and fitting_names(None, 80) is COCO_CLASSES
    with pytest.warns(UserWarning, match="names 2 classes, but its tensors are for 80"):
        assert fitting_names(["ant", "bee"], 80) is None


def test_boxes_that_all_classes_share_are_refused():
    name = "dyhead_r50_rcnn_fpn_1x"
    state = with_classes(name, 3) | {SCORES[name][1] + ".bias": np.zeros(4)}
    with pytest.raises(ValueError, match="Received: 1 boxes, 4 scores"):
        count_classes(PUBLISHED[name], state)
