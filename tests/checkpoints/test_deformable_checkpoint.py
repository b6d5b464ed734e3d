"""ResNeXt-101-64x4d with DCNv2 computes what mmdetection computed, from image to DyHead.

`data/README.md` says what is stored; the weights are generated from the tensors' names. Everything
is held at 1e-4 of a level's standard deviation.
"""

import gzip
import json
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from published_weights import generated_weight, published_state

from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.checkpoints import load_backbone_weights, load_checkpoint, tables
from keras_dyhead.checkpoints.backbone_weights import backbone_part

DATA = Path(__file__).parent / "data"
NAME = "atss_x101-64x4d-dcnv2_fpn_dyhead"
LEVELS = ("P3", "P4", "P5", "P6", "P7")
SHAPES = json.loads(gzip.decompress((DATA / f"{NAME}.json.gz").read_bytes()))


def test_backbone_pyramid_and_dyhead_are_the_originals():
    reference = np.load(DATA / f"{NAME}.npz")
    model = load_checkpoint(NAME, published_state(SHAPES))
    learnable = sum(np.prod(w.shape) for w in model.weights if "moving" not in w.path)
    assert learnable == 104_684_524
    image = model.preprocessor.normalize(np.asarray(Image.open(DATA / "openmmlab.png"))[None])
    parts = {"feature_pyramid": model.pyramid.output, "dyhead": model.neck.output}
    found = keras.Model(model.inputs[0], parts | {"backbone": model.pyramid.input})(image)
    found = {part: dict(zip(LEVELS, maps, strict=False)) for part, maps in found.items()}
    checked = 0
    for part, maps in found.items():
        for level, values in maps.items():
            expected, std = reference[f"{part}/{level}"], reference[f"std/{part}/{level}"]
            values = np.asarray(values)[0, ..., ::64]
            assert values.shape == expected.shape
            assert np.abs(values - expected).max() <= 1e-4 * std, (part, level)
            checked += 1
    assert checked == 3 + 5 + 5


def test_imagenet_weights_do_not_change_the_offsets():
    """Files of ResNeXt classifiers have no deformable convolutions."""
    arguments = {"depth": 50, "base_channels": 8, "groups": 2, "width_per_group": 32}
    part = backbone_part(ResNetBackbone(**arguments), tables.RESNET_TORCHVISION, "")
    state = {"fc.weight": np.zeros((10, 256), "float32"), "fc.bias": np.zeros(10, "float32")}
    for path, weight in part.weights.items():
        shape = tuple(weight.shape)
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        state[part.tensor_name(path)] = generated_weight(path, shape)
    backbone = ResNetBackbone(**arguments, deformable_stages=(3, 4, 5))
    load_backbone_weights(backbone, state)
    np.testing.assert_array_equal(
        backbone.get_layer("layer3_2_conv2").kernel,
        state["layer3.2.conv2.weight"].transpose(2, 3, 1, 0),
    )
    offsets = [w for w in backbone.weights if "offset_conv" in w.path]
    assert len(offsets) == 2 * (4 + 6 + 3)
    assert all(float(keras.ops.max(keras.ops.abs(w))) == 0 for w in offsets)


def test_detectron2_stores_the_offsets_next_to_the_convolution():
    """detectron2's `DeformBottleneckBlock` calls this module `conv2_offset`."""
    backbone = ResNetBackbone(50, base_channels=8, deformable_stages=(3,))
    part = backbone_part(backbone, tables.RESNET_DETECTRON2, "")
    name = part.tensor_name("layer2_1_conv2/offset_conv/kernel")
    assert name == "res3.1.conv2_offset.weight"
    assert part.tensor_name("layer2_1_conv2/kernel") == "res3.1.conv2.weight"
