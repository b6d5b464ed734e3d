"""The data of a training: the settings, and the data set that follows from them."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from keras_dyhead.coco import Augmentation, load_coco
from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.training.optimizer import check


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images a detector learns from, and at which size.

    Args:
        images: Folder of the training images.
        annotations: COCO JSON file of the training images.
        val_images: Folder of the images to evaluate on. Defaults to `None`: the training images.
        val_annotations: COCO JSON file of those. Defaults to `None`: the training annotations.
        batch_size: Images per step, on all devices together. Defaults to `4`.
        image_size: Side in pixels of the square that images are fitted into. Defaults to `None`:
            512, unless there are `canvases`.
        canvases: `(height, width)` of the batches, in place of `image_size`: every image goes into
            the one it fits best, resized by `min_side` and `max_side`. Defaults to `None`.
        min_side: Length that the shorter side of an image gets ... Defaults to `None`: 800, or as
            published.
        max_side: ... unless the longer one would exceed this. Defaults to `None`: 1333, or as
            published.
        augmentation: Arguments of `keras_dyhead.coco.Augmentation`. Defaults to `None`, its
            defaults.
        on_error: `"raise"` or `"skip"`, what to do about broken images and unusable annotations.
            Defaults to `"raise"`.

    Example:

    >>> settings = DataSettings("photos", "instances.json", augmentation={"horizontal_flip": 0})
    >>> settings.batch_size, settings.build_augmentation().horizontal_flip
    (4, 0)
    """

    images: str | os.PathLike
    annotations: str | os.PathLike
    val_images: str | os.PathLike | None = None
    val_annotations: str | os.PathLike | None = None
    batch_size: int = 4
    image_size: int | None = None
    canvases: tuple[tuple[int, int], ...] | None = None
    min_side: int | None = None
    max_side: int | None = None
    augmentation: Mapping[str, Any] | None = None
    on_error: str = "raise"

    def __post_init__(self):
        for name in ("images", "annotations", "val_images", "val_annotations"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else os.fspath(value))
        if (self.val_images is None) != (self.val_annotations is None):
            raise ValueError(
                "`val_images` and `val_annotations` go together. Received: "
                f"val_images={self.val_images}, val_annotations={self.val_annotations}"
            )
        for name in ("batch_size", "image_size", "min_side", "max_side"):
            value = getattr(self, name)
            check(self, name, value is None or value > 0, "positive")
        if self.canvases is not None:
            object.__setattr__(self, "canvases", tuple(tuple(canvas) for canvas in self.canvases))
            if self.image_size is not None:
                raise ValueError(
                    "`image_size` and `canvases` exclude each other. Received: "
                    f"image_size={self.image_size}, canvases={self.canvases}"
                )
        self.build_augmentation()

    def build_augmentation(self) -> Augmentation:
        """Returns how training images are varied.

        Raises:
            ValueError: If `augmentation` has other names than the arguments of `Augmentation`.
        """
        given = self.augmentation or {}
        known = [field.name for field in dataclasses.fields(Augmentation)]
        unknown = sorted(set(given).difference(known))
        if unknown:
            raise ValueError(f"`augmentation` may have {known}. Received: {unknown}")
        return Augmentation(**given)


def open_training_data(
    settings: DataSettings, preprocessor: DetectionPreprocessor, **arguments
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
