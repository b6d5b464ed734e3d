"""The files that pages use."""

import gzip
import json
import shutil

import keras
import torch
from docs.pages import ROOT
from published_weights import published_state

from keras_dyhead.coco import SHAPES, draw_shapes
from keras_dyhead.detectors import ATSS, DetectionPreprocessor
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid


def write_files(folder):
    """Writes a detector, and four drawn images with annotations to several folders."""
    annotations = draw_shapes(folder / "drawn", 4, 64, size_range=(16, 40), empty_fraction=0)
    for name in ("photos", "train", "val", "images"):
        shutil.copytree(folder / "drawn" / "images", folder / name)
        shutil.copy(annotations, folder / f"{name}.json")
    shutil.copy(annotations, folder / "instances.json")
    for name in ("street.jpg", "image.jpg"):
        shutil.copy(folder / "photos" / "000000.jpg", folder / name)
    (folder / "results.json").write_text(
        '[{"image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9}]'
    )
    small_model().save(folder / "atss.keras")


def write_published_files(folder):
    """Writes checkpoints of the published sizes, with generated weights."""
    names = ROOT / "tests" / "checkpoints" / "data" / "tensor_names.json.gz"
    shapes = json.loads(gzip.decompress(names.read_bytes()))
    state = published_state(shapes["dyhead_r50_atss_fpn_1x"], stem_factor=1 / 64)
    _save(state, folder / "dyhead_r50_atss_fpn_1x.pth")
    state = published_state(shapes["atss_r50_fpn_dyhead_1x_coco"])
    _save(state, folder / "atss_r50_fpn_dyhead_4x4_1x_coco_20211219_023314-eaa620c6.pth")
    prefix = "backbone."  # the rest of the name is torchvision's
    backbone = {name: state[name] for name in state if name.startswith(prefix)}
    backbone = {name.removeprefix(prefix): value for name, value in backbone.items()}
    _save(backbone, folder / "resnet50-11ad3fa6.pth")


def _save(state, path):
    """Saves to the folder and to its `models`, where Keras caches downloads."""
    torch.save({name: torch.tensor(value) for name, value in state.items()}, path)
    (path.parent / "models").mkdir(exist_ok=True)
    shutil.copy(path, path.parent / "models")


def small_backbone():
    """A fast backbone."""
    images = x = keras.Input((None, None, 3))
    maps = {}
    for level, strides in (("P2", 4), ("P3", 2), ("P4", 2), ("P5", 2)):
        maps[level] = x = keras.layers.Conv2D(16, 5, strides, "same", activation="relu")(x)
    return keras.Model(images, maps)


def small_model():
    """A small detector of the five shapes."""
    return ATSS(
        small_backbone(),
        num_classes=len(SHAPES),
        class_names=SHAPES,
        neck=DyHeadNeck(num_blocks=1, channels=16),
        pyramid=FeaturePyramid(channels=16, max_level=5),
        preprocessor=DetectionPreprocessor(image_size=(64, 64)),
    )
