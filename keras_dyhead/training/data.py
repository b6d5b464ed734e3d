"""Opens the data that the training settings describe."""

import copy

import numpy as np
import tensorflow as tf
from keras.saving import deserialize_keras_object

from keras_dyhead.checkpoints import PUBLISHED
from keras_dyhead.coco import CocoAnnotations, load_coco
from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.printable import counted
from keras_dyhead.training.model import trained_config
from keras_dyhead.training.settings import TrainingSettings


def build_preprocessor(settings: TrainingSettings) -> DetectionPreprocessor:
    """Returns the preprocessor of the data, which becomes the model's.

    Raises:
        ValueError: If the detector in `settings.weights` cannot be read or has another image size.
    """
    arguments, size = {}, None
    if settings.weights in PUBLISHED:
        arguments |= PUBLISHED[settings.weights].preprocessing
    elif settings.weights is not None:
        trained = trained_config(settings.weights)
        arguments |= deserialize_keras_object(trained["preprocessor"]).get_config()
        arguments["image_size"] = None
        height, width, _ = trained["image_shape"]
        size = None if None in (height, width) else (height, width)
    elif settings.published is None:
        arguments["pad_multiple"] = 2 ** (settings.max_level or 7)
    else:
        arguments |= settings.published.preprocessing
    if size is not None and (settings.canvases or settings.image_size not in (None, *size)):
        raise ValueError(
            f"{settings.weights} is for images of {size[0]} x {size[1]} pixels: do not set another "
            f"size. Received: image_size={settings.image_size}, canvases={settings.canvases}"
        )
    if settings.canvases is None:
        arguments["image_size"] = size or (settings.image_size or 512,) * 2
    for name in ("min_side", "max_side"):
        if getattr(settings, name) is not None:
            arguments[name] = getattr(settings, name)
    return DetectionPreprocessor(**arguments)


def open_training_data(
    settings: TrainingSettings,
    preprocessor: DetectionPreprocessor,
    verify: bool = True,
    **arguments,
) -> tf.data.Dataset:
    """Opens the training images, without those that `val_split` holds out.

    Passes further arguments to `load_coco` and returns its dataset. The attribute `held_out` has
    the annotations of the images held out, or of all images if none are.
    """
    opened = CocoAnnotations(
        settings.annotations, settings.images, on_error=settings.on_error, verify=verify
    )
    part, held_out = _split(opened, settings)
    steps, done = -(-len(part.images) // settings.batch_size), arguments.get("initial_step", 0)
    if done and done >= steps:
        raise ValueError(
            f"Training stopped after {done} steps of an epoch, but the data now have {steps}. "
            "Resume it with the data it was started with."
        )
    dataset = load_images(settings, part, preprocessor, training=True, **arguments)
    dataset.held_out = held_out
    return dataset


def load_images(
    settings: TrainingSettings,
    annotations: CocoAnnotations,
    preprocessor: DetectionPreprocessor,
    **arguments,
) -> tf.data.Dataset:
    """Loads the images of opened annotations. Passes further arguments to `load_coco`."""
    return load_coco(
        settings.images,
        annotations,
        settings.batch_size,
        settings.canvases or preprocessor.image_size,
        preprocessor=preprocessor,
        augmentation=settings.build_augmentation(),
        on_error=settings.on_error,
        **arguments,
    )


def _split(
    opened: CocoAnnotations, settings: TrainingSettings
) -> tuple[CocoAnnotations, CocoAnnotations]:
    """Returns the images to train on, and those to evaluate on."""
    if not settings.val_split:
        return opened, opened
    count = len(opened.images)
    number = round(settings.val_split * count)
    if not 0 < number < count:
        raise ValueError(
            "`val_split` must leave images to train on and to evaluate on. "
            f"Received: val_split={settings.val_split} of {counted(count, 'image')}"
        )
    drawn = np.random.default_rng(settings.seed).permutation(count)
    parts = copy.copy(opened), copy.copy(opened)
    for part, rows in zip(parts, (drawn[number:], drawn[:number]), strict=True):
        part.images = [opened.images[row] for row in np.sort(rows)]
    return parts


def open_data(
    settings: TrainingSettings,
    preprocessor: DetectionPreprocessor,
    initial_epoch: int,
    initial_step: int,
    several_devices: bool,
) -> tuple[tf.data.Dataset, tf.data.Dataset]:
    """Opens the images to train and to evaluate on, and checks that they can be used.

    Several devices need whole batches, so that each has its share.

    Raises:
        ValueError: If there is no whole batch or an unknown category to evaluate on.
    """
    train = open_training_data(
        settings,
        preprocessor,
        seed=settings.seed,
        initial_epoch=initial_epoch,
        initial_step=initial_step,
        drop_remainder=several_devices,
    )
    annotations = train.held_out
    if settings.val_images is not None:
        annotations = CocoAnnotations(
            settings.val_annotations,
            settings.val_images,
            class_names=train.class_names,
            on_error=settings.on_error,
        )
        if annotations.other_classes and settings.on_error == "raise":
            raise ValueError(
                f"{annotations.path} has categories that the training data lack: "
                f"{sorted(annotations.other_classes)}. The training data have "
                f"{train.class_names}. `on_error='skip'` leaves the others out."
            )
    if several_devices and len(annotations.images) < settings.batch_size:
        raise ValueError(
            f"Several devices need at least one batch of {settings.batch_size} images to evaluate "
            f"on. Received: {counted(len(annotations.images), 'image')} in {annotations.path}"
        )
    return train, load_images(settings, annotations, preprocessor)
