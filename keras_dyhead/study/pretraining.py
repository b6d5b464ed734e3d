"""A backbone that tells shapes apart before it detects any: what ImageNet is elsewhere."""

import json
from pathlib import Path

import keras
import tensorflow as tf

from keras_dyhead.coco import load_coco
from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.study.plan import BACKBONE_WEIGHTS, Configuration, StudySettings
from keras_dyhead.study.trial import training_settings
from keras_dyhead.training.model import build_backbone
from keras_dyhead.training.optimizer import OptimizerSettings, build_optimizer

_IMAGES, _OBJECTS = 16, 64  # read at a time, learned from at a time
_CONTEXT = 1.3  # side of what is cut out, in longer sides of the box


def pretrain_backbone(settings: StudySettings, data: Path) -> dict:
    """Trains the backbone to classify objects of the training images, cut out.

    Writes the result to `pretraining.json` and the weights to `BACKBONE_WEIGHTS` in `data`, the
    latter complete or not at all.

    Args:
        settings: What all trainings of the study have in common.
        data: Folder with the drawn set `train`.

    Returns:
        `{"accuracy": ...}`, the share of the last tenth of objects that were told right, before
        the step that learned from them.
    """
    keras.utils.clear_session(free_memory=True)
    keras.utils.set_random_seed(0)
    training = training_settings(Configuration("atss"), 0, settings, data)
    preprocessor = DetectionPreprocessor(image_size=(settings.image_size,) * 2)
    images = load_coco(
        training.images,
        training.annotations,
        _IMAGES,
        preprocessor.image_size,
        training=True,
        preprocessor=preprocessor,
        seed=0,
        verify=False,  # they have just been drawn
    )
    side = settings.image_size // 2
    objects = images.repeat().map(lambda *batch: _cut_out(*batch, side), tf.data.AUTOTUNE)
    objects = objects.unbatch().batch(_OBJECTS, drop_remainder=True).prefetch(2)

    backbone = build_backbone(training, (side, side, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    classifier = keras.Model(backbone.input, keras.layers.Dense(len(images.class_names))(pooled))
    rounds = min(10, settings.pretraining)
    steps = settings.pretraining // rounds
    classifier.compile(
        build_optimizer(
            OptimizerSettings(learning_rate=settings.learning_rate),
            classifier.trainable_variables,
            _OBJECTS,
            rounds * steps,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    history = classifier.fit(
        objects,
        epochs=rounds,
        steps_per_epoch=steps,
        shuffle=False,  # the data set shuffles itself
        verbose=0,
    ).history
    unfinished = data / "unfinished.weights.h5"  # Keras asks for the suffix
    backbone.save_weights(unfinished)
    result = {"accuracy": history["accuracy"][-1]}
    (data / "pretraining.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    unfinished.replace(data / BACKBONE_WEIGHTS)
    return result


def _cut_out(images, targets, side):
    """The objects of a batch of images, each enlarged or reduced to a square, and their labels."""
    present = tf.where(targets["labels"] >= 0)
    corners = tf.reshape(tf.gather_nd(targets["boxes"], present), (-1, 2, 2))  # x and y, twice
    middle = tf.reduce_mean(corners, axis=1)[:, ::-1]
    reach = _CONTEXT / 2 * tf.reduce_max(corners[:, 1] - corners[:, 0], axis=1, keepdims=True)
    last_pixel = tf.cast(tf.shape(images)[1:3] - 1, "float32")
    windows = tf.concat([middle - reach, middle + reach], axis=1) / tf.tile(last_pixel, [2])
    image_numbers = tf.cast(present[:, 0], "int32")
    objects = tf.image.crop_and_resize(images, windows, image_numbers, (side, side))
    return objects, tf.gather_nd(targets["labels"], present)
