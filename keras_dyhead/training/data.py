"""The data of a training, as its settings ask for them."""

from pathlib import Path

import tensorflow as tf

from keras_dyhead.coco import load_coco
from keras_dyhead.coco.checks import read_coco_json
from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.training.settings import TrainingSettings


def build_preprocessor(settings: TrainingSettings) -> DetectionPreprocessor:
    """Returns the preprocessor of the data, which becomes the model's.

    Args:
        settings: The settings.
    """
    arguments = {}
    if settings.published is None:
        arguments["pad_multiple"] = 2 ** (settings.max_level or 7)
    else:
        arguments |= settings.published.preprocessing
    if settings.canvases is None:
        arguments["image_size"] = (settings.image_size or 512,) * 2
    for name in ("min_side", "max_side"):
        if getattr(settings, name) is not None:
            arguments[name] = getattr(settings, name)
    return DetectionPreprocessor(**arguments)


def open_training_data(
    settings: TrainingSettings, preprocessor: DetectionPreprocessor, **arguments
) -> tf.data.Dataset:
    """Opens the training images.

    Args:
        settings: The settings.
        preprocessor: See `load_coco`.
        **arguments: Further arguments of `load_coco`.
    """
    return load_coco(
        settings.images,
        settings.annotations,
        settings.batch_size,
        settings.canvases or preprocessor.image_size,
        training=True,
        preprocessor=preprocessor,
        augmentation=settings.build_augmentation(),
        on_error=settings.on_error,
        **arguments,
    )


def open_data(
    settings: TrainingSettings,
    preprocessor: DetectionPreprocessor,
    initial_epoch: int,
    initial_step: int,
    several_devices: bool,
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Opens the images to train and to evaluate on, and checks that a training can be made of them.

    Args:
        settings: The settings.
        preprocessor: See `load_coco`, like the next two.
        initial_epoch: First epoch of the training data.
        initial_step: First step of that epoch.
        several_devices: Whether each of several devices must have its share of every batch.

    Raises:
        ValueError: If there is no whole batch, no box, or another category to evaluate on.
    """
    train = open_training_data(
        settings,
        preprocessor,
        seed=settings.seed,
        initial_epoch=initial_epoch,
        initial_step=initial_step,
        drop_remainder=several_devices,
    )
    if not len(train):
        raise ValueError(
            f"{settings.annotations} must have images for a whole batch, of which each of "
            f"several devices has its share. Received: batch_size={settings.batch_size}, "
            f"{len(train.annotations.images)} images"
        )
    if not any(len(image.boxes) for image in train.annotations.images):
        raise ValueError(f"{settings.annotations} has no box to learn from.")
    val_annotations = settings.val_annotations or settings.annotations
    categories = read_coco_json(Path(val_annotations))["categories"]
    names = {str(c["name"]) for c in categories if isinstance(c, dict) and "name" in c}
    unknown = names.difference(train.class_names)
    if unknown and settings.on_error == "raise":
        raise ValueError(
            f"{val_annotations} has categories that the training data lack: {sorted(unknown)}; "
            f"those have {list(train.class_names)} (`on_error='skip'` leaves the others out)"
        )
    val = load_coco(
        settings.val_images or settings.images,
        val_annotations,
        settings.batch_size,
        settings.canvases or preprocessor.image_size,
        preprocessor=preprocessor,
        class_names=train.class_names,
        on_error=settings.on_error,
    )
    if several_devices and len(val.annotations.images) < settings.batch_size:
        raise ValueError(
            f"Several devices need at least {settings.batch_size} images, a batch, to evaluate "
            f"on. Received: {len(val.annotations.images)} in {val_annotations}"
        )
    return train, val
