"""Backbones by name, by their arguments, and with weights from a file."""

import keras
import numpy as np
import pytest
from published_weights import generated_weight
from safetensors.numpy import save_file

from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.checkpoints import tables
from keras_dyhead.checkpoints.backbone_weights import backbone_part
from keras_dyhead.coco import CocoAnnotations
from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.training.backbone import build_backbone
from keras_dyhead.training.model import build_detector
from keras_dyhead.training.plan import resolve_settings

TINY = {"depth": 50, "base_channels": 8, "deformable_stages": (5,)}
SHAPE = (64, 64, 3)


@pytest.fixture
def weights(tmp_path):
    """A file with ImageNet weights for `TINY`, without offsets."""
    part = backbone_part(ResNetBackbone(50, base_channels=8), tables.RESNET_TORCHVISION, "")
    state = {}
    for path, weight in part.weights.items():
        shape = tuple(weight.shape)
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
        state[part.tensor_name(path)] = generated_weight(path, shape)
    save_file(state, tmp_path / "resnet.safetensors")
    return tmp_path / "resnet.safetensors", state["layer4.0.conv2.weight"]


def test_a_backbone_built_from_arguments_loads_weights_from_a_file(weights, data, tiny):
    """In a model of lower precision with loss scaling."""
    file, kernel = weights
    settings = tiny(backbone=TINY, backbone_weights=file, dtype="mixed_float16")
    settings = resolve_settings(settings, CocoAnnotations(data["annotations"]))
    preprocessor = DetectionPreprocessor(image_size=SHAPE[:2])
    model = build_detector(settings, ["a"], 10, preprocessor)
    assert model.backbone.deformable_stages == (5,)
    found = model.backbone.get_layer("layer4_0_conv2").kernel
    np.testing.assert_array_equal(found, kernel.transpose(2, 3, 1, 0))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert {layer.compute_dtype for layer in model.backbone.layers[1:]} == {"float16"}


def test_a_backbone_built_by_name_loads_weights_from_a_file(tiny, tmp_path):
    """A torchvision file with its classifier; the normalizations keep their statistics."""
    part = backbone_part(ResNetBackbone(18), tables.RESNET_TORCHVISION, "")
    state = {"fc.weight": np.zeros((1000, 512), "float32"), "fc.bias": np.zeros(1000, "float32")}
    for path, weight in part.weights.items():
        state[part.tensor_name(path)] = np.ones(tuple(weight.shape)[::-1], "float32")
    save_file(state, tmp_path / "resnet18.safetensors")
    settings = tiny(backbone="resnet18", backbone_weights=tmp_path / "resnet18.safetensors")
    backbone = build_backbone(settings, SHAPE)
    assert all((weight.numpy() == 1).all() for weight in backbone.weights)
    assert not isinstance(backbone.get_layer("bn1"), keras.layers.BatchNormalization)


def test_a_backbone_from_scratch_learns_its_normalizations(tiny):
    given = tiny(backbone=TINY | {"batch_norm": "train"})
    for settings in (given, tiny(backbone="resnet18")):
        backbone = build_backbone(settings, SHAPE)
        assert isinstance(backbone.get_layer("bn1"), keras.layers.BatchNormalization)


def test_the_smallest_backbone_is_from_keras_hub(tiny):
    backbone = build_backbone(tiny(backbone="small"), SHAPE)
    sizes = {level: x.shape[1:] for level, x in backbone.pyramid_outputs.items()}
    assert sizes["P3"] == (8, 8, 64) and sizes["P5"] == (2, 2, 128)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backbone": "small", "backbone_weights": "x.pth"}, "require a backbone of.*'small'"),
        ({"backbone": {"class": "ViT"}}, "class of `backbone` must be one of.*'ViT'"),
        ({"backbone": TINY}, "needs trained weights.*'depth': 50"),
    ],
)
def test_an_invalid_backbone_is_refused(tiny, wrong, message):
    with pytest.raises(ValueError, match=message):
        build_backbone(tiny(**wrong), SHAPE)
