"""The published Faster R-CNN, and mmdetection's, compute what the originals computed.

As in `test_every_backend.py`; the data have two of 256 channels, and two of twelve box deltas.
"""

import dataclasses
import gzip
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from published_weights import published_state

from keras_dyhead.checkpoints import COMPOSED, PUBLISHED, load_checkpoint
from keras_dyhead.detectors.proposals import Proposals

DATA = Path(__file__).parent / "data"
MICROSOFT, OPENMMLAB = "dyhead_r50_rcnn_fpn_1x", "faster-rcnn_r50_fpn_1x_coco+dyhead"
LEVELS = {"P2": (48, 64), "P3": (24, 32), "P4": (12, 16), "P5": (6, 8), "P6": (3, 4)}
TOLERANCE = 1e-4  # of a level's standard deviation
SIZE = np.array([[192, 256]], "int32")


def tensor_shapes(name):
    """Names and shapes of all tensors. OpenMMLab's RetinaNet, except pyramid and heads."""
    names = json.loads(gzip.decompress((DATA / "tensor_names.json.gz").read_bytes()))
    if name in names:
        return names[name]
    shapes = {
        key: shape
        for key, shape in names["retinanet_r50_fpn_1x_coco+dyhead"].items()
        if not key.startswith(("neck.0.", "bbox_head."))
    }
    layers = {f"neck.0.lateral_convs.{i}.conv": (256, 256 * 2**i, 1, 1) for i in range(4)}
    layers |= {f"neck.0.fpn_convs.{i}.conv": (256, 256, 3, 3) for i in range(4)}
    layers |= {
        "rpn_head.rpn_conv": (256, 256, 3, 3),
        "rpn_head.rpn_cls": (3, 256, 1, 1),
        "rpn_head.rpn_reg": (12, 256, 1, 1),
        "roi_head.bbox_head.shared_fcs.0": (1024, 256 * 7 * 7),
        "roi_head.bbox_head.shared_fcs.1": (1024, 1024),
        "roi_head.bbox_head.fc_cls": (81, 1024),
        "roi_head.bbox_head.fc_reg": (320, 1024),
    }
    for layer, shape in layers.items():
        shapes |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    return shapes


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, its outputs for the reference image, and those of the original."""

    name: str
    model: keras.Model
    maps: dict
    raw: dict
    reference: dict


@pytest.fixture(scope="module", params=[MICROSOFT, OPENMMLAB])
def case(request):
    name = request.param
    record = (PUBLISHED | COMPOSED)[name]
    stem_factor = 1 / 64 if record.preprocessing["std"] == (1.0, 1.0, 1.0) else 1.0
    model = load_checkpoint(name, published_state(tensor_shapes(name), stem_factor))
    images = np.asarray(Image.open(DATA / f"{record.origin}.png"))[None]
    outputs = {"feature_pyramid": model.pyramid.output, "dyhead": model.neck.output}
    outputs["raw"] = model.output
    maps = keras.Model(model.inputs[0], outputs)(model.preprocessor.normalize(images))
    raw = maps.pop("raw")
    return Case(name, model, maps, raw, dict(np.load(DATA / f"{name}.npz")))


def test_all_tensors_are_used(case):
    expected = {MICROSOFT: 53_203_592 + 106_240, OPENMMLAB: 53_252_104 + 53_120}[case.name]
    assert case.model.count_params() == expected


def test_pyramid_dyhead_and_raw_outputs_are_the_originals(case):
    found, start = {}, 0
    for part, levels in case.maps.items():
        for level, values in zip(LEVELS, levels, strict=True):
            found[f"{part}/{level}"] = np.asarray(values)[0][..., [0, 128]]
    for level, (height, width) in LEVELS.items():
        rows = slice(start, start + height * width * 3)
        logits, deltas = (
            np.asarray(case.raw[key])[0, rows].reshape(height, width, -1)
            for key in ("objectness_logits", "anchor_deltas")
        )
        found[f"objectness_logits/{level}"] = logits
        found[f"anchor_deltas/{level}"] = deltas[..., ::6]
        start = rows.stop
    assert len(found) == 4 * 5 and start == case.raw["objectness_logits"].shape[1]
    for key, values in found.items():
        error = np.abs(values - case.reference[key]).max()
        assert error <= TOLERANCE * case.reference[f"std/{key}"], key


def propose(model, raw, training=False):
    """Eagerly, suppression would take seconds."""
    return tf.function(lambda raw: model.propose(raw, SIZE, training))(raw)


def assert_same_set(boxes, scores, expected_boxes, expected_scores):
    """Compares in the order of the scores, except scores that are equal to within 1e-5."""
    assert len(boxes) == len(expected_boxes)
    left = list(range(len(boxes)))
    for box, score in zip(np.asarray(boxes), np.asarray(scores), strict=True):
        near = [i for i in left if abs(expected_scores[i] - score) < 1e-5]
        distances = np.abs(np.asarray(expected_boxes)[near] - box).max(axis=1)
        assert near and distances.min() < 0.01, (box, score)
        left.remove(near[int(np.argmin(distances))])


def test_proposals_are_the_originals(case):
    found = propose(case.model, case.raw)
    used = np.asarray(found.found[0])
    expected = (case.reference["proposals/boxes"], case.reference["proposals/logits"])
    assert used.sum() == {MICROSOFT: 916, OPENMMLAB: 760}[case.name]
    assert_same_set(np.asarray(found.boxes[0])[used], np.asarray(found.logits[0])[used], *expected)


def test_the_second_stage_gives_the_originals_logits_and_deltas(case):
    outputs = case.model.classify(case.raw, case.reference["regions/boxes"][None])
    deltas = np.asarray(outputs["box_deltas"])[0].reshape(len(outputs["box_deltas"][0]), -1)
    found = {"class_logits": outputs["class_logits"][0], "box_deltas": deltas[:, ::8]}
    for key, values in found.items():
        error = np.abs(values - case.reference[f"regions/{key}"]).max()
        assert error <= TOLERANCE * case.reference[f"std/regions/{key}"], key


def test_detections_are_the_originals(case):
    decoder = case.model.decoder
    assert (decoder.score_threshold, decoder.iou_threshold) == (0.05, 0.5)
    threshold = float(case.reference["detections/threshold"])
    case.model.decoder = dataclasses.replace(decoder, score_threshold=threshold)
    detect = tf.function(lambda raw: case.model.decode(raw, SIZE))
    found = {k: np.asarray(v)[0] for k, v in detect(case.raw).items()}
    case.model.decoder = decoder
    count = found["num_detections"]
    expected = {k: case.reference[f"detections/{k}"] for k in ("boxes", "confidence", "labels")}
    for label in {*found["labels"][:count], *expected["labels"]}:
        ours, theirs = found["labels"] == label, expected["labels"] == label
        assert_same_set(
            *(found[k][ours] for k in ("boxes", "confidence")),
            *(expected[k][theirs] for k in ("boxes", "confidence")),
        )
    assert count == {MICROSOFT: 73, OPENMMLAB: 100}[case.name]


@pytest.mark.parametrize("case", [OPENMMLAB], indirect=True)
@pytest.mark.parametrize("objects", ["g0", "g1"])
def test_assignments_and_losses_are_openmmlabs_with_its_samples(case, objects):
    reference = {
        key.removeprefix(f"{objects}/"): value
        for key, value in case.reference.items()
        if key.startswith(f"{objects}/")
    }
    model, raw = case.model, case.raw
    boxes, labels = (tf.constant(reference[key][None]) for key in ("boxes", "labels"))
    anchors = model.anchors(list(LEVELS.values()), 2)
    assigned = np.asarray(model.assigner(anchors, boxes, labels))[0]
    np.testing.assert_array_equal(assigned, reference["anchors/assigned"])

    boxes_of_proposals = case.reference["train/proposals"][None]
    found = propose(model, raw, training=True)
    assert np.asarray(found.found).all()
    rank = np.arange(1000)[::-1].astype("float32")
    np.testing.assert_allclose(found.boxes[0, 0], boxes_of_proposals[0, 0], atol=0.01)
    assert_same_set(found.boxes[0], 0 * rank, boxes_of_proposals[0], 0 * rank)
    proposals = Proposals(boxes_of_proposals, rank[None], np.ones((1, 1000), bool))
    assigned = np.asarray(model.region_assigner(proposals.boxes, boxes, labels))[0]
    np.testing.assert_array_equal(assigned, reference["regions/assigned"])

    def noise(kind, count):
        """Random numbers that choose the samples of the original."""
        drawn = np.zeros((1, count), "float32")
        drawn[0, reference[f"{kind}/drawn"]] = 1
        return drawn

    losses = model.proposal_losses(raw, boxes, labels, noise("anchors", len(anchors)))
    count = 1000 + boxes.shape[1]
    losses |= model.region_losses(raw, proposals, boxes, labels, noise("regions", count))
    assert set(losses) == set(model.loss_names)
    for key, value in losses.items():
        np.testing.assert_allclose(value, reference[key], rtol=1e-5, err_msg=key)
