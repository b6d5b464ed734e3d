"""Assignment, losses and detections equal those of the published code on its raw outputs.

`data/<origin>_<detector>.npz` holds the results of detectron2 (microsoft/DynamicHead) and mmdet
3.3.0 for the raw outputs of a model with generated weights, an image of 192x256 px and 80 classes.
Outputs of FCOS and RepPoints are stored in full. For ATSS and RetinaNet, only the class logits of
possible candidates are stored (the best 1200 of each level by class and by confidence; all of P4 to
P7 for OpenMMLab's ATSS), and the deltas that matter.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from detectors.scenes import small_backbone
from published_weights import generated_weight

from keras_dyhead.detectors import (
    ATSS,
    FCOS,
    AnchorGenerator,
    DetectionDecoder,
    FCOSAssigner,
    MaxIoUAssigner,
    RepPoints,
    RetinaNet,
)
from keras_dyhead.detectors.reppoints_head import moment_boxes
from keras_dyhead.layers import FeaturePyramid

LEVEL_SIZES = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]
CLASSES = 80

SETTINGS = {
    "openmmlab_atss": (ATSS, {"anchors": AnchorGenerator(8.0, 1, (1.0,), offset=0.0)}),
    "openmmlab_retinanet": (
        RetinaNet,
        {"anchors": AnchorGenerator(ratios_first=True), "assigner": MaxIoUAssigner(reassign=True)},
    ),
    "openmmlab_fcos": (FCOS, {"assigner": FCOSAssigner(center_radius=None), "box_loss": "iou"}),
    "openmmlab_reppoints": (RepPoints, {}),
    "microsoft_atss": (
        ATSS,
        {
            "decoder": DetectionDecoder(iou_threshold=0.6, clip="after_nms", rank_by="confidence"),
            "loss_normalizer": "batch",
        },
    ),
    "microsoft_retinanet": (
        RetinaNet,
        {"decoder": DetectionDecoder(clip="after_nms"), "loss_normalizer": "running"},
    ),
}
OPENMMLAB = [name for name in SETTINGS if name.startswith("openmmlab")]


def new_detector(name, **changes):
    """Our equivalent of a published detector, with an arbitrary backbone."""
    cls, settings = SETTINGS[name]
    return cls(
        small_backbone(), CLASSES, neck=None, pyramid=FeaturePyramid(16), **settings | changes
    )


detector = functools.cache(new_detector)  # for tests that do not change it


def load(name):
    return dict(np.load(Path(__file__).parent / "data" / f"{name}.npz"))


def raw_outputs(model, stored, batch=1):
    """The stored raw outputs, with logits of -20 and deltas of 0 where they are not stored."""
    if "pair_steps" in stored:
        rows = model.locations_per_cell * sum(h * w for h, w in LEVEL_SIZES)
        logits, deltas = np.full(rows * CLASSES, -20, "float32"), np.zeros((rows, 4), "float32")
        logits[np.cumsum(stored["pair_steps"])] = stored["logits"]
        deltas[np.cumsum(stored["row_steps"])] = stored["box_deltas"]
        stored = stored | {"class_logits": logits.reshape(rows, CLASSES), "box_deltas": deltas}
    raw = {key: stored[key] for key in model.output if key != "level_sizes"}
    raw = {key: np.repeat(value[None], batch, axis=0) for key, value in raw.items()}
    return raw | {"level_sizes": np.array(LEVEL_SIZES, "int32")}


def targets(stored, *sets):
    """Boxes and labels of a batch of images, each with a stored set of objects or `None`."""
    boxes, labels = np.zeros((len(sets), 10, 4), "float32"), np.full((len(sets), 10), -1, "int32")
    for i, name in enumerate(sets):
        if name is not None:
            count = len(stored[f"{name}/labels"])
            boxes[i, :count], labels[i, :count] = stored[f"{name}/boxes"], stored[f"{name}/labels"]
    return tf.constant(boxes), tf.constant(labels)


def assert_detections(found, stored, name):
    count = int(found["num_detections"][0])
    assert count == len(stored[f"{name}/labels"]) > 60
    boxes, labels, confidence = (
        np.asarray(found[key])[0, :count] for key in ("boxes", "labels", "confidence")
    )
    np.testing.assert_array_equal(labels, stored[f"{name}/labels"])
    np.testing.assert_allclose(boxes, stored[f"{name}/boxes"], atol=1e-3)
    np.testing.assert_allclose(confidence, stored[f"{name}/confidence"], atol=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_raw_outputs_decode_to_the_published_detections_in_their_order(name):
    model, stored = new_detector(name), load(name)
    raw = raw_outputs(model, stored)
    assert_detections(model.decode(raw, [[192, 256]]), stored, "detections")
    if name.startswith("microsoft"):
        threshold = float(stored["certain_threshold"])
        model.decoder = dataclasses.replace(model.decoder, score_threshold=threshold)
        assert_detections(model.decode(raw, [[192, 256]]), stored, "certain_detections")


def test_ranking_by_class_and_by_confidence_differ_on_microsofts_outputs():
    """Otherwise the test above could not tell them apart."""
    decoder = dataclasses.replace(SETTINGS["microsoft_atss"][1]["decoder"], rank_by="class")
    model, stored = new_detector("microsoft_atss", decoder=decoder), load("microsoft_atss")
    found = model.decode(raw_outputs(model, stored), [[192, 256]])
    with pytest.raises(AssertionError):
        assert_detections(found, stored, "detections")


@pytest.mark.parametrize(
    ("name", "objects"),
    [(name, "g0") for name in SETTINGS] + [(name, "g1") for name in OPENMMLAB],
)
def test_every_anchor_gets_the_published_object(name, objects):
    model, stored = detector(name), load(name)
    _, assigned, _ = model.match(raw_outputs(model, stored), *targets(stored, objects))
    expected = stored[f"{objects}/assigned"]
    assert (expected >= 0).sum() > (5 if name == "openmmlab_reppoints" else 50)
    np.testing.assert_array_equal(assigned[0], expected)


@pytest.mark.parametrize("objects", ["g0", "g1"])
def test_the_initial_points_of_reppoints_get_the_published_objects(objects):
    model, stored = detector("openmmlab_reppoints"), load("openmmlab_reppoints")
    raw = raw_outputs(model, stored)
    _, assigned, _ = model.match_initial(raw, *targets(stored, objects))
    expected = stored[f"{objects}/initial_assigned"]
    assert set(expected) == {-1, *range(len(stored[f"{objects}/labels"]))}
    np.testing.assert_array_equal(assigned[0], expected)


@pytest.mark.parametrize("stage", ["initial", "refined"])
def test_boxes_of_reppoints_equal_the_published_ones_for_the_same_points(stage):
    stored = load("openmmlab_reppoints")
    transfer = generated_weight("bbox_head.moment_transfer", (2,))
    boxes = moment_boxes(stored[f"{stage}_points"], transfer)
    np.testing.assert_allclose(boxes, stored[f"{stage}_boxes"], atol=3e-6)


BATCHES = {
    "g0": ["g0"],
    "g1": ["g1"],
    "batch_g0_g1": ["g0", "g1"],
    "batch_g0_empty": ["g0", None],
}
LOSS_NAMES = {
    "class_loss": "loss_cls",
    "box_loss": "loss_bbox",  # RepPoints: "loss_pts_refine" and "loss_pts_init"
    "initial_box_loss": "loss_bbox_init",
    "centerness_loss": "loss_centerness",
}
LOSSES = [(name, "g0") for name in SETTINGS] + [
    (name, batch) for name in OPENMMLAB for batch in list(BATCHES)[1:]
]


@pytest.mark.parametrize(("name", "batch"), LOSSES)
def test_losses_equal_the_published_ones(name, batch):
    """The class loss needs all logits stored; the next test covers that of ATSS."""
    changes_state = "running" in SETTINGS[name][1].values()
    model, stored = (new_detector if changes_state else detector)(name), load(name)
    raw = raw_outputs(model, stored, batch=len(BATCHES[batch]))
    # A training step moves detectron2's running mean from 100 to 106.8.
    found = model.compute_losses(raw, *targets(stored, *BATCHES[batch]), training=True)
    for ours, theirs in LOSS_NAMES.items():
        if ours in found and (ours != "class_loss" or "class_logits" in stored):
            expected = stored[f"{batch}/{theirs}"].sum(dtype="float64")
            np.testing.assert_allclose(found[ours], expected, rtol=1e-5, err_msg=ours)


@pytest.mark.parametrize("batch", BATCHES)
def test_class_losses_from_p4_on_equal_the_published_ones(batch):
    """OpenMMLab's losses are given level by level; the logits of P4 to P7 are stored in full."""
    model, stored = detector("openmmlab_atss"), load("openmmlab_atss")
    raw = raw_outputs(model, stored, batch=len(BATCHES[batch]))
    boxes, labels = targets(stored, *BATCHES[batch])
    _, assigned, _ = model.match(raw, boxes, labels)
    normalizer = model.num_positives(assigned >= 0)
    coarse = {"class_logits": raw["class_logits"][:, 24 * 32 :]}
    found = model.sum_class_losses(coarse, labels, assigned[:, 24 * 32 :]) / normalizer
    expected = stored[f"{batch}/loss_cls"][1:].sum(dtype="float64")
    np.testing.assert_allclose(found, expected, rtol=1e-5)
