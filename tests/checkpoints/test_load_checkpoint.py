"""Published checkpoints load completely, and errors name what does not fit.

The weights are generated from the tensors' names. That models then compute what the originals
computed is in `test_every_backend.py`.
"""

import gzip
import json
import sys
import warnings
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from published_weights import published_state

from keras_dyhead.checkpoints import COMPOSED, PUBLISHED, load_checkpoint, load_detector
from keras_dyhead.checkpoints.load_checkpoint import count_classes, fitting_names
from keras_dyhead.coco import COCO_CLASSES

DATA = Path(__file__).parent / "data"
NAMES = json.loads(gzip.decompress((DATA / "tensor_names.json.gz").read_bytes()))


def state_of(name):
    """The generated checkpoint of a model."""
    undivided = (PUBLISHED | COMPOSED)[name].preprocessing["std"] == (1.0, 1.0, 1.0)
    return published_state(NAMES[name], stem_factor=1 / 64 if undivided else 1.0)


@pytest.mark.slow
def test_swin_large_takes_every_tensor_of_its_checkpoint():
    """With arrays of one repeated number, because real values would take long."""
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


def test_the_error_for_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="dyhead_r50_atss_fpn_1x.*Received: name='atss'"):
        load_checkpoint("atss", {})
    with pytest.raises(ValueError, match="`name` must be one of"):
        load_checkpoint(["dyhead_r50_atss_fpn_1x"])


NAME = "dyhead_r50_atss_fpn_1x"


@pytest.fixture(scope="module")
def zeros():
    """The tensors of Microsoft's ATSS, all zero, without memory."""
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in NAMES[NAME].items()}


def test_every_problem_of_a_checkpoint_is_named(zeros):
    """Missing, extra and misshapen tensors; extras of older versions are ignored."""
    state = dict(zeros)
    del state["head.scales.3.scale"], state["backbone.backbone.bottom_up.res3.0.conv2.weight"]
    state["head.mystery.weight"] = np.zeros(3)
    state["head.cls_logits.bias"] = np.zeros(81)  # the scores determine the number of classes
    state["pixel_mean"] = np.zeros((3, 1, 1))
    state["anchor_generator.cell_anchors.0"] = np.zeros((1, 4))
    with pytest.raises(ValueError, match="Nothing was loaded. Problems: 4") as error:
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


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("keras_hub.src.models.resnet.resnet_backbone", "keras-hub"),
        ("keras_dyhead.integrations.keras_cv", "keras-cv"),
    ],
)
def test_the_missing_package_of_a_file_is_named(module, package, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as file:
        file.writestr("config.json", json.dumps({"module": module, "class_name": "Any"}))
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    monkeypatch.delitem(sys.modules, "keras_dyhead.integrations.keras_cv", raising=False)
    with pytest.raises(ImportError, match=f"model.keras needs {package} .*cannot be imported: .+"):
        load_detector(tmp_path / "model.keras")


def test_the_model_has_its_preprocessing_and_class_names(zeros):
    """The sizes of several images follow detectron2's own rule."""
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


SCORES = {  # of each family: the layers of the scores and, if any, of the boxes of all classes
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
    """The tensors of a model trained on other classes: all zero, with other numbers of scores."""
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
def test_the_tensors_determine_the_number_of_classes(name, count):
    assert count_classes((PUBLISHED | COMPOSED)[name], with_classes(name, count)) == count


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if "rcnn" in n else pytest.mark.slow) for n in SCORES],
)
def test_custom_checkpoints_load_with_their_number_of_classes(name):
    model = load_checkpoint(name, with_classes(name, 3))
    assert model.num_classes == 3 and model.class_names is None


def test_names_come_from_the_file_if_their_number_fits(tmp_path):
    state = {
        "model." + key: torch.zeros(()).expand(array.shape)
        for key, array in with_classes(NAME, 2).items()
    }
    torch.save({"state_dict": state, "meta": {"CLASSES": ("ant", "bee")}}, tmp_path / "mine.pth")
    assert load_checkpoint(NAME, tmp_path / "mine.pth").class_names == ("ant", "bee")
    with warnings.catch_warnings(), pytest.raises(ValueError, match="use_bias=True"):
        warnings.simplefilter("error")  # the names are not at fault
        load_checkpoint("atss_r50_fpn_dyhead_1x_coco", tmp_path / "mine.pth")
    assert fitting_names(["ant", "bee"], 2) == ["ant", "bee"]
    assert fitting_names(None, 2) is None and fitting_names(None, 80) is COCO_CLASSES
    with pytest.warns(UserWarning, match="names 2 classes, but its tensors are for 80"):
        assert fitting_names(["ant", "bee"], 80) is None


def test_boxes_that_all_classes_share_are_refused():
    name = "dyhead_r50_rcnn_fpn_1x"
    state = with_classes(name, 3) | {SCORES[name][1] + ".bias": np.zeros(4)}
    with pytest.raises(ValueError, match="Received: 1 box, 4 scores"):
        count_classes(PUBLISHED[name], state)
