"""Small detectors and a scene to train them on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_dyhead.detectors import (
    ATSS,
    FCOS,
    AnchorGenerator,
    Detector,
    FasterRCNN,
    ProposalSelector,
    RandomSampler,
    RegionPooler,
    RepPoints,
    RetinaNet,
)
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid

CLASSES = 3


@dataclasses.dataclass(frozen=True)
class Small:
    """A small detector for tests, and its properties.

    Args:
        detector: Class of the detector.
        raw: Last dimensions of each raw output, after those of image and location.
        maps: Raw outputs that are maps.
        arguments: Arguments of the constructor.
        pyramid: Arguments of the pyramid.
        epochs: Number of epochs to train on the scene.
        lasting_losses: Losses that training does not lower much.
        on_replicas: Additional arguments for the test with replicas.
        background_losses: Losses of images without objects.
    """

    detector: type[Detector]
    raw: Mapping[str, tuple[int, ...]]
    maps: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pyramid: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 50
    lasting_losses: tuple[str, ...] = ("centerness_loss",)  # cross-entropy with targets within 0, 1
    on_replicas: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    background_losses: tuple[str, ...] = ("class_loss",)

    def parts(self, num_blocks, max_level=5, dtype=None):
        """Returns the arguments `neck` and `pyramid`, with 16 channels."""
        given = {"max_level": max_level, "dtype": dtype, "name": "feature_pyramid"}
        pyramid = FeaturePyramid(16, **self.pyramid, **given)
        neck = DyHeadNeck(num_blocks, 16, dtype=dtype, name="dyhead") if num_blocks else None
        return {"neck": neck, "pyramid": pyramid}

    def class_layer(self, model):
        """Returns the layer that predicts the class logits."""
        return model.head.class_logits

    def background_bias(self, model):
        """Returns the biases that decrease in training without objects."""
        return self.class_layer(model).bias


class SmallTwoStage(Small):
    """A detector whose first stage does not predict classes."""

    def class_layer(self, model):
        return model.head.box_head.class_logits

    def background_bias(self, model):
        return model.head.rpn.objectness_logits.bias


EVERYTHING = RandomSampler(10_000, 1.0)  # no randomness

SMALL = {
    "retinanet": Small(
        RetinaNet,
        raw={"class_logits": (CLASSES,), "box_deltas": (4,)},
        arguments={"anchors": AnchorGenerator(3.0, 1), "head_layers": 0},
        on_replicas={"loss_normalizer": "running"},
    ),
    "atss": Small(
        ATSS,
        raw={"class_logits": (CLASSES,), "box_deltas": (4,), "centerness_logits": ()},
        arguments={"anchors": AnchorGenerator(4.0, 1, (1.0,), offset=0.5)},
    ),
    "faster-rcnn": SmallTwoStage(
        FasterRCNN,
        raw={"objectness_logits": (), "anchor_deltas": (4,)},
        maps=("P3", "P4", "P5"),
        arguments={
            "head_layers": 1,
            "head_units": 64,
            "anchors": AnchorGenerator(4.0, 1, (1.0,), offset=0.5),
            "sampler": EVERYTHING,
            "proposals": ProposalSelector(100, 100, max_proposals=20, iou_threshold=0.5),
            "region_sampler": EVERYTHING,
            "pooler": RegionPooler(5, canonical_size=56.0),
        },
        pyramid={"extra_levels": "pool"},
        epochs=100,
        # As proposals improve, more of them have an object to learn.
        lasting_losses=("box_loss", "proposal_loss"),
        background_losses=("class_loss", "objectness_loss"),
    ),
    "fcos": Small(
        FCOS, raw={"class_logits": (CLASSES,), "box_distances": (4,), "centerness_logits": ()}
    ),
    "reppoints": Small(
        RepPoints,
        raw={
            "class_logits": (CLASSES,),
            **{f"{stage}_points": (18,) for stage in ("initial", "refined")},
            **{f"{stage}_boxes": (4,) for stage in ("initial", "refined")},
        },
    ),
}
"""All detectors by name, for tests that apply to each of them."""


def small_backbone(**options):
    """A plain model from images to C3..C5, without batch statistics, so batches can be split."""
    images = x = keras.Input((None, None, 3))
    maps = {}
    for level, strides in [("P3", 8), ("P4", 2), ("P5", 2)]:
        x = keras.layers.Conv2D(16, 9, strides, "same", activation="relu", **options)(x)
        maps[level] = x
    return keras.Model(images, maps)


def small_detector(name, num_blocks=0, **kwargs):
    """A reproducible, untrained detector on P3..P5."""
    keras.utils.set_random_seed(0)
    small = SMALL[name]
    defaults = {**small.parts(num_blocks, dtype=kwargs.get("dtype")), **small.arguments}
    return small.detector(small_backbone(), CLASSES, **defaults | kwargs)


def scene():
    """Two images of noise: one with two bright boxes, one without objects."""
    images = np.random.default_rng(0).normal(0, 0.1, (2, 64, 96, 3)).astype("float32")
    boxes = np.array(
        [[[8, 8, 40, 44], [50, 20, 90, 48], [0, 0, 0, 0]], np.zeros((3, 4))], "float32"
    )
    labels = np.array([[0, 2, -1], [-1, -1, -1]])
    images[0, 8:44, 8:40] += [1, 0, 0]
    images[0, 20:48, 50:90] += [0, 0, 1]
    return images, {"boxes": boxes, "labels": labels}


def assert_same(a, b, atol=1e-4):
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_allclose(a[key], b[key], atol=atol, err_msg=key)
