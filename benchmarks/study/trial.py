"""One training run of the study and its evaluation."""

import itertools
import math
import statistics
import time

from benchmarks.study.images import folder_of, weights_of
from benchmarks.study.plan import ATTENTIONS, ROUNDS, Trial


def train(trial: Trial) -> dict:
    """Trains a detector and evaluates it on the held-out images.

    Returns:
        `"figures"`, the twelve COCO metrics; `"losses"`, the mean loss of each tenth of the
        training, `None` if not finite; `"parameters"`; `"seconds_per_step"`, the median of all
        tenths except the first.
    """
    import keras

    from keras_dyhead.coco import evaluate_coco, load_coco
    from keras_dyhead.detectors import DetectionPreprocessor
    from keras_dyhead.training.plan import resolve_settings

    keras.utils.set_random_seed(trial.seed)
    settings = training_settings(trial)
    preprocessor = DetectionPreprocessor(image_size=(trial.image_size,) * 2)
    form = {
        "batch_size": trial.batch_size,
        "image_size": preprocessor.image_size,
        "preprocessor": preprocessor,
        "verify": False,  # they have just been drawn
    }
    data = load_coco(
        settings.images,
        settings.annotations,
        training=True,
        augmentation=None,  # most images are seen once
        seed=trial.seed,
        drop_remainder=True,
        **form,
    )
    held_out = load_coco(settings.val_images, settings.val_annotations, **form)
    settings = resolve_settings(settings, data.annotations)
    model = build(trial, settings, data.class_names, preprocessor)
    times = []
    clock = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: times.append(time.time()))
    losses = model.fit(
        data.repeat(),
        epochs=ROUNDS,
        steps_per_epoch=trial.steps // ROUNDS,
        callbacks=[clock],
        shuffle=False,  # the dataset shuffles itself
        verbose=0,
    ).history["loss"]
    figures = evaluate_coco(model, held_out, workers=1, verbose=0).figures
    rounds = [end - start for start, end in itertools.pairwise(times)]
    return {
        "figures": figures,
        "losses": [loss if math.isfinite(loss) else None for loss in losses],
        "parameters": model.count_params(),
        "seconds_per_step": statistics.median(rounds) * ROUNDS / trial.steps,
    }


def training_settings(trial: Trial):
    """Returns the settings of `keras-dyhead train` for a trial."""
    from keras_dyhead.training import TrainingSettings

    folder = folder_of(trial)
    attentions = set(trial.attentions)
    if trial.arrangement == "paper":
        attentions.discard("task")  # runs after RoI pooling
    return TrainingSettings(
        images=folder / "train" / "images",
        annotations=folder / "train" / "instances.json",
        val_images=folder / "held_out" / "images",
        val_annotations=folder / "held_out" / "instances.json",
        batch_size=trial.batch_size,
        image_size=trial.image_size,
        backbone="small",
        detector=trial.detector,
        num_blocks=trial.num_blocks,
        alignment=trial.alignment,
        start=trial.start,
        **{f"use_{name}_attention": name in attentions for name in ATTENTIONS},
        channels=trial.channels,
        head_layers=trial.head_layers,
        max_level=5,
        anchor_octaves=2,
        learning_rate=trial.learning_rate,
        seed=trial.seed,
    )


def build(trial: Trial, settings, class_names, preprocessor):
    """Builds and compiles the detector of a trial."""
    import keras

    from keras_dyhead.training.model import build_model
    from keras_dyhead.training.optimizer import build_optimizer

    model = build_model(settings, class_names, preprocessor)
    if trial.arrangement != "released":
        keras.utils.set_random_seed(trial.seed)
        config = model.get_config() | {"arrangement": trial.arrangement}
        model = type(model).from_config(config)
    if trial.backbone:
        model.backbone.load_weights(weights_of(trial.backbone))
    model.compile(build_optimizer(settings, model.trainable_variables, trial.steps))
    return model
