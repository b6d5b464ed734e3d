"""The backbones against maps of the published implementations, with generated weights.

`data/` has two pictures, and channels 0, k, 2k, ... of the maps that mmdetection's ResNet-50 and
detectron2's ResNet-50 and Swin-T (as in microsoft/DynamicHead) compute from them.
"""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from published_weights import generated_weight

from keras_dyhead.backbones import ResNetBackbone, SwinBackbone
from keras_dyhead.checkpoints import tables
from keras_dyhead.checkpoints.backbone_weights import backbone_part
from keras_dyhead.detectors.preprocessor import IMAGENET_MEAN, IMAGENET_STD

DATA = Path(__file__).parent / "data"
MICROSOFT = "backbone.backbone.bottom_up."


def load_generated(backbone, table, prefix, factors):
    part = backbone_part(backbone, table, prefix)
    for path, weight in part.weights.items():
        name, shape = part.tensor_name(path), tuple(weight.shape)
        if path.endswith("kernel"):
            shape = tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape[::-1]
        values = generated_weight(name, shape) * np.float32(factors.get(name, 1))
        weight.assign(part.array(path, values))


def picture(name, mean=IMAGENET_MEAN, std=IMAGENET_STD):
    pixels = np.asarray(Image.open(DATA / f"{name}.png"), "float32")
    return ((pixels - np.float32(mean)) / np.float32(std))[None]


@pytest.mark.parametrize(
    ("case", "make", "table", "prefix", "factors", "image"),
    [
        (
            "openmmlab_r50",
            ResNetBackbone,
            tables.RESNET_TORCHVISION,
            "backbone.",
            {},
            picture("openmmlab"),
        ),
        (
            "microsoft_r50",
            lambda: ResNetBackbone(style="caffe"),
            tables.RESNET_DETECTRON2,
            MICROSOFT,
            {MICROSOFT + "stem.conv1.weight": 1 / 64},
            picture("microsoft", IMAGENET_MEAN[::-1], 1),
        ),
        (
            "microsoft_swint",
            SwinBackbone,
            tables.SWIN_MICROSOFT,
            MICROSOFT,
            {},
            picture("microsoft"),
        ),
    ],
)
def test_maps_equal_those_of_the_published_code(case, make, table, prefix, factors, image):
    backbone = make()
    load_generated(backbone, table, prefix, factors)
    maps = backbone(image)
    published = np.load(DATA / "published_maps.npz")
    levels = [name.split("/")[1] for name in published.files if name.startswith(case)]
    assert len(levels) >= 3
    for level in levels:
        expected = published[f"{case}/{level}"]
        step = maps[level].shape[-1] // expected.shape[-1]
        error = np.abs(maps[level][0, ..., ::step] - expected)
        assert error.max() < 1e-4 * expected.std(), level
