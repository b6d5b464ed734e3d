"""One training of a study, with its evaluation."""

import itertools
import math
import os
import platform
import statistics
import time
from pathlib import Path

import keras
import tensorflow as tf

from keras_dyhead.coco import evaluate_coco, load_coco
from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.study.plan import (
    ATTENTIONS,
    BACKBONE_WEIGHTS,
    ROUNDS,
    Configuration,
    StudySettings,
)
from keras_dyhead.training.settings import TrainingSettings, build_detector, fastest_sampling
from keras_dyhead.version import __version__


def run_trial(configuration: Configuration, seed: int, settings: StudySettings, data: Path) -> dict:
    """Trains a detector for a number of steps and evaluates it on the held-out images.

    Args:
        configuration: The detector.
        seed: Seed of weights and order.
        settings: What all trainings of the study have in common.
        data: Folder with the drawn sets `train` and `held_out`, and the pretrained backbone.

    Returns:
        Dict that `json` can write: `"figures"`, the twelve COCO figures; `"losses"`, the mean loss
        of each tenth of the training, `None` where it is not finite; `"parameters"`;
        `"seconds_per_step"`, the median of the tenths but the first; `"seconds"` from the beginning
        to the first step done, of the training and of all; `"made_with"`, versions and cores.
    """
    clock = _Clock()
    keras.utils.clear_session(free_memory=True)
    keras.utils.set_random_seed(seed)
    training = training_settings(configuration, seed, settings, data)
    steps_per_round = max(1, round(settings.steps * configuration.length / ROUNDS))
    preprocessor = DetectionPreprocessor(image_size=(settings.image_size,) * 2)
    form = {
        "batch_size": settings.batch_size,
        "image_size": preprocessor.image_size,
        "preprocessor": preprocessor,
        "verify": False,  # they have just been drawn
    }
    train = load_coco(
        training.images,
        training.annotations,
        training=True,
        augmentation=None,  # most images are seen once
        seed=seed,
        drop_remainder=True,
        **form,
    )
    held_out = load_coco(training.val_images, training.val_annotations, **form)
    model = build_detector(
        training.resolve(train.annotations),
        train.class_names,
        ROUNDS * steps_per_round,
        preprocessor,
    )
    if configuration.pretrained and settings.pretraining:
        model.backbone.load_weights(data / BACKBONE_WEIGHTS)
    with fastest_sampling(training):
        losses = model.fit(
            train.repeat(),
            epochs=ROUNDS,
            steps_per_epoch=steps_per_round,
            callbacks=[clock],
            shuffle=False,  # the data set shuffles itself
            verbose=0,
        ).history["loss"]
        figures = evaluate_coco(model, held_out, verbose=0)
    return {
        "figures": figures,
        "losses": [loss if math.isfinite(loss) else None for loss in losses],
        "parameters": model.count_params(),
        "seconds_per_step": clock.round_seconds() / steps_per_round,
        "seconds": {
            "to_first_step": clock.first_step - clock.start,
            "training": clock.rounds[-1] - clock.start,
            "all": time.perf_counter() - clock.start,
        },
        "made_with": {
            "keras_dyhead": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "threads": int(os.environ.get("TF_NUM_INTRAOP_THREADS") or os.cpu_count()),
        },
    }


def training_settings(
    configuration: Configuration, seed: int, settings: StudySettings, data: Path
) -> TrainingSettings:
    """Says what is trained, see `run_trial`, in the terms of an ordinary training."""
    head_convs = configuration.head_convs
    if head_convs is None and configuration.detector != "faster-rcnn":
        head_convs = settings.head_convs
    return TrainingSettings(
        images=data / "train" / "images",
        annotations=data / "train" / "instances.json",
        val_images=data / "held_out" / "images",
        val_annotations=data / "held_out" / "instances.json",
        batch_size=settings.batch_size,
        image_size=settings.image_size,
        backbone=settings.backbone,
        detector=configuration.detector,
        num_blocks=configuration.num_blocks,
        alignment=configuration.alignment,
        **{f"use_{name}_attention": name in configuration.attentions for name in ATTENTIONS},
        channels=settings.channels,
        head_layers=head_convs,
        max_level=5,
        anchor_octaves=2,
        learning_rate=settings.learning_rate,
        seed=seed,
    )


class _Clock(keras.callbacks.Callback):
    """Notes when the first step and each round ended."""

    def __init__(self):
        super().__init__()
        self.start = time.perf_counter()
        self.first_step, self.rounds = None, []

    def on_train_batch_end(self, batch, logs=None):
        self.first_step = self.first_step or time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.rounds.append(time.perf_counter())

    def round_seconds(self):
        """The median of the rounds but the first, which has the trace in it."""
        return statistics.median(b - a for a, b in itertools.pairwise(self.rounds))
