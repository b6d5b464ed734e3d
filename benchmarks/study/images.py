"""The drawn images and the pretrained backbone that all training runs of the study share."""

import hashlib
import json
import multiprocessing
import shutil
import tempfile
from pathlib import Path

from benchmarks.runner import RUNS
from benchmarks.study.plan import Trial

PRETRAINING = 2400
"""Steps of pretraining the backbone to classify cropped shapes."""

_IMAGES, _OBJECTS = 16, 64  # images read at a time, objects per training step
_CONTEXT = 1.3  # side of a crop, relative to the longer side of the box


def folder_of(trial: Trial) -> Path:
    """Returns the folder with the drawn datasets `train` and `held_out` of a trial."""
    return RUNS / "study" / f"{trial.images}+{trial.held_out}-{trial.image_size}px"


def weights_of(backbone: str) -> Path:
    """Returns the weights file of a backbone, given by its SHA-256."""
    return RUNS / "study" / f"{backbone}.weights.h5"


def hard_shapes(image_size: int) -> dict:
    """Returns arguments of `draw_shapes` for shapes that are hard to distinguish.

    Sizes vary by a factor of eight. Shapes are stretched, overlap, and have hues unrelated to their
    class. Outlines are distractors.
    """
    return {
        "image_size": image_size,
        "max_shapes": 6,
        "size_range": (image_size / 12.8, image_size * 5 / 8),
        "class_hues": False,
        "min_contrast": 30.0,
        "min_stretch": 0.4,
        "max_overlap": 0.25,
        "max_outlines": 6,
    }


def draw(trial: Trial) -> None:
    """Draws the images of a trial unless they exist."""
    from keras_dyhead.coco.shapes import draw_shapes

    folder = folder_of(trial)
    if folder.exists():
        return
    shapes = hard_shapes(trial.image_size)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
        drawn = Path(unfinished, "drawn")
        draw_shapes(drawn / "train", trial.images, **shapes)
        draw_shapes(drawn / "held_out", trial.held_out, start=trial.images, **shapes)
        if not folder.exists():  # another program may have drawn them meanwhile
            drawn.rename(folder)


def keep_backbone(weights: Path) -> str:
    """Copies backbone weights to `weights_of` and returns their SHA-256."""
    backbone = hashlib.sha256(weights.read_bytes()).hexdigest()
    weights_of(backbone).parent.mkdir(parents=True, exist_ok=True)
    if not weights_of(backbone).exists():
        shutil.copy(weights, weights_of(backbone))
    return backbone


def known_backbone(trial: Trial) -> str:
    """Returns the SHA-256 of the backbone pretrained here, or an empty string."""
    record = _record(trial)
    return json.loads(record.read_text())["sha256"] if record.exists() else ""


def pretrained_backbone(trial: Trial) -> str:
    """Returns the SHA-256 of the pretrained backbone, pretraining it if needed.

    Raises:
        RuntimeError: If pretraining fails.
    """
    if not _record(trial).exists():
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(target=pretrain, args=(trial,))
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError("The backbone could not be pretrained.")
    return known_backbone(trial)


def pretrain(trial: Trial, steps: int = PRETRAINING) -> None:
    """Trains the backbone to classify objects cropped from the training images."""
    import keras
    import tensorflow as tf

    from benchmarks.study.trial import training_settings
    from keras_dyhead.coco import load_coco
    from keras_dyhead.detectors import DetectionPreprocessor
    from keras_dyhead.training.backbone import build_backbone
    from keras_dyhead.training.optimizer import build_optimizer

    keras.utils.set_random_seed(0)
    settings = training_settings(trial)
    preprocessor = DetectionPreprocessor(image_size=(trial.image_size,) * 2)
    images = load_coco(
        settings.images,
        settings.annotations,
        _IMAGES,
        preprocessor.image_size,
        training=True,
        preprocessor=preprocessor,
        seed=0,
        verify=False,  # they have just been drawn
    )
    side = trial.image_size // 2
    objects = images.repeat().map(lambda *batch: _cut_out(*batch, side), tf.data.AUTOTUNE)
    objects = objects.unbatch().batch(_OBJECTS, drop_remainder=True).prefetch(2)
    backbone = build_backbone(settings, (side, side, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    classifier = keras.Model(backbone.input, keras.layers.Dense(len(images.class_names))(pooled))
    rounds = min(10, steps)
    classifier.compile(
        build_optimizer(settings, classifier.trainable_variables, steps),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    history = classifier.fit(
        objects,
        epochs=rounds,
        steps_per_epoch=steps // rounds,
        shuffle=False,  # the dataset shuffles itself
        verbose=0,
    ).history
    weights = _record(trial).with_suffix(".weights.h5")
    backbone.save_weights(weights)
    found = {"sha256": keep_backbone(weights), "accuracy": history["accuracy"][-1]}
    _record(trial).write_text(json.dumps(found) + "\n")


def _record(trial):
    return folder_of(trial) / "backbone.json"


def _cut_out(images, targets, side):
    """Crops the objects of a batch of images to squares of one size; returns them and labels."""
    import tensorflow as tf

    present = tf.where(targets["labels"] >= 0)
    corners = tf.reshape(tf.gather_nd(targets["boxes"], present), (-1, 2, 2))  # x and y, twice
    middle = tf.reduce_mean(corners, axis=1)[:, ::-1]
    reach = _CONTEXT / 2 * tf.reduce_max(corners[:, 1] - corners[:, 0], axis=1, keepdims=True)
    last_pixel = tf.cast(tf.shape(images)[1:3] - 1, "float32")
    windows = tf.concat([middle - reach, middle + reach], axis=1) / tf.tile(last_pixel, [2])
    image_numbers = tf.cast(present[:, 0], "int32")
    objects = tf.image.crop_and_resize(images, windows, image_numbers, (side, side))
    return objects, tf.gather_nd(targets["labels"], present)
