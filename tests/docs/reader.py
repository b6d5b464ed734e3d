"""What the reader of a page is supposed to have, so small that all pages run in seconds.

Files lie in the current folder, under the names that the pages use; names that a page uses without
defining them are those of `Reader.names`. What is written large is run small: `smaller` changes
numbers in the code, `small_defaults` those that the code leaves out.
"""

import dataclasses
import re
import shutil

import keras
import keras_hub
import numpy as np
import torch
from published_weights import generated_weight, microsoft_tower, openmmlab_tower

from keras_dyhead import backbones, checkpoints, detectors, layers
from keras_dyhead.checkpoints import tables
from keras_dyhead.checkpoints.backbone_weights import backbone_part
from keras_dyhead.checkpoints.load_checkpoint import detector_parts
from keras_dyhead.coco import SHAPES, draw_shapes

SMALL_DEFAULTS = {
    **{"num_blocks": 1, "channels": 16, "max_level": 5, "base_channels": 8},
    **{"min_side": 64, "max_side": 96, "pad_multiple": 32},
}
_SMALLER = [
    (r"ResNetBackbone\((50|101)(?!, groups)\b", "ResNetBackbone(18"),
    (r"groups=64, width_per_group=4", "groups=2, width_per_group=32"),
    (r"\bnum_blocks=\d\b", "num_blocks=1"),
    (r"\bchannels=\d+", "channels=16"),
    (r"\bimage_size=\d+", "image_size=64"),
    (r"\((256|320|512), \1\b", "(64, 64"),
    (r"\b512, 512\b", "64, 64"),
    (r"\[3, 4, 6, 3\]", "[2, 2, 2, 2]"),
    (r"\b256\b(?!, 512)", "16"),
    (r"\bepochs=\d+", "epochs=1"),
    (r"\bnum_images=\d+", "num_images=4"),
]


def smaller(code):
    """The same code with smaller numbers."""
    for pattern, replacement in _SMALLER:
        code = re.sub(pattern, replacement, code)
    return code


def small_defaults(monkeypatch):
    """Gives the arguments of `SMALL_DEFAULTS` these defaults, and fits without tracing."""
    modules = backbones, detectors, layers
    classes = {getattr(module, name) for module in modules for name in module.__all__}
    classes -= {layers.FeaturePyramid}  # KerasCV counts on its five levels
    for cls in classes:
        init = cls.__init__
        names = init.__code__.co_varnames[: init.__code__.co_argcount]
        defaults = init.__defaults__ or ()
        first = len(names) - len(defaults)
        small = tuple(
            SMALL_DEFAULTS.get(name, value)
            for name, value in zip(names[first:], defaults, strict=True)
        )
        if small != defaults:
            monkeypatch.setattr(init, "__defaults__", small)
    for name, record in checkpoints.PUBLISHED.items():
        small = dataclasses.replace(
            record, preprocessing=record.preprocessing | {"min_side": 64, "max_side": 96}
        )
        if record.backbone == "ResNetBackbone":
            arguments = record.backbone_arguments | {"depth": 18}
            small = dataclasses.replace(small, backbone_arguments=arguments)
        monkeypatch.setitem(checkpoints.PUBLISHED, name, small)
    compile_model = keras.Model.compile

    def compile_eagerly(self, *args, **kwargs):
        if kwargs.get("jit_compile") is not True:
            kwargs |= {"run_eagerly": True, "jit_compile": False}
        compile_model(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "compile", compile_eagerly)


def write_files(folder):
    """Writes all files that pages name; `small_defaults` must be in force."""
    annotations = draw_shapes(folder / "drawn", 4, 64, size_range=(16, 40), empty_fraction=0)
    for name in ("photos", "train", "val", "images"):
        shutil.copytree(folder / "drawn" / "images", folder / name)
        shutil.copy(annotations, folder / f"{name}.json")
    shutil.copy(annotations, folder / "instances.json")
    (folder / "results.json").write_text(
        '[{"image_id": 0, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.9}]'
    )
    for name in ("street.jpg", "image.jpg"):
        shutil.copy(folder / "photos" / "000000.jpg", folder / name)
    small_model().save(folder / "atss.keras")
    for name, file, state in (
        (
            "dyhead_r50_atss_fpn_1x",
            "dyhead_r50_atss_fpn_1x.pth",
            microsoft_tower(16, 1, prefix="backbone.dyhead_tower."),
        ),
        (
            "atss_r50_fpn_dyhead_1x_coco",
            "atss_r50_fpn_dyhead_4x4_1x_coco_20211219_023314-eaa620c6.pth",
            openmmlab_tower(16, 1),
        ),
    ):
        record = checkpoints.PUBLISHED[name]
        _generate(state, detector_parts(record.build(), record, state))
        _save(state, folder / file)
    state = {}
    _generate(state, [backbone_part(backbones.ResNetBackbone(18), tables.RESNET_TORCHVISION, "")])
    _save(state, folder / "resnet50-11ad3fa6.pth")


def small_backbone():
    """Images to maps, with nothing between that takes time."""
    images = x = keras.Input((None, None, 3))
    maps = {}
    for level, strides in (("P2", 4), ("P3", 2), ("P4", 2), ("P5", 2)):
        maps[level] = x = keras.layers.Conv2D(16, 5, strides, "same", activation="relu")(x)
    return keras.Model(images, maps)


def small_model():
    """A detector of the five shapes."""
    return detectors.ATSS(
        small_backbone(),
        num_classes=len(SHAPES),
        class_names=SHAPES,
        pyramid=layers.FeaturePyramid(16, max_level=4),
        preprocessor=detectors.DetectionPreprocessor(image_size=(64, 64)),
    )


def _generate(state, parts):
    for part in parts:
        for path, variable in part.weights.items():
            name, shape = part.tensor_name(path), tuple(variable.shape)
            if path.endswith("kernel") and len(shape) == 4:
                shape = (shape[3], shape[2], *shape[:2])
            state.setdefault(name, generated_weight(name, shape))


def _save(state, path):
    torch.save({name: torch.tensor(value) for name, value in state.items()}, path)


def _keras_cv_backbone():
    import keras_cv

    return keras_cv.models.YOLOV8Backbone(
        [8, 16, 24, 32], [1, 1, 1, 1], include_rescaling=True, input_shape=(64, 64, 3)
    )


def _yolov8_detector():
    import keras_cv

    return keras_cv.models.YOLOV8Detector(_keras_cv_backbone(), 5, "xyxy", fpn_depth=1)


def _retinanet_backbone():
    encoder = keras_hub.models.ResNetBackbone(
        [64], [3], [64, 16, 16, 16], [1, 1, 1, 1], [1, 2, 2, 2], "basic_block"
    )
    shape = (64, 64, 3)
    return keras_hub.models.RetinaNetBackbone(encoder, 3, 5, use_p5=False, image_shape=shape)


def _dataset():
    from keras_dyhead.coco import load_coco

    return load_coco("train", "train.json", 2, (64, 64), training=True)


def _compiled_model():
    model = small_model()
    model.compile()
    return model


def value_of(name, code):
    """The value of a name that a block uses without any block before defining it."""
    if name == "backbone" and "keras_cv." in code:
        name = "KerasCV's backbone"
    if name == "backbone" and "keras_hub." in code:
        name = "retinanet_backbone"
    return VALUES[name]()


VALUES = {
    "backbone": small_backbone,
    "KerasCV's backbone": _keras_cv_backbone,
    "dataset": _dataset,
    "image": lambda: np.zeros((48, 64, 3), "uint8"),
    "images": lambda: np.zeros((2, 64, 64, 3), "float32"),
    "model": _compiled_model,
    "retinanet_backbone": _retinanet_backbone,
    "train": _dataset,
    "your_yolov8_detector": _yolov8_detector,
}
