"""COCO annotations and an image folder as NumPy batches, without TensorFlow."""

import functools
import os
import random
import warnings
from collections.abc import Sequence

import keras
import numpy as np

from keras_dyhead.coco.annotations import CocoAnnotations, CocoImage
from keras_dyhead.coco.checks import check_count, warn_of_other_size
from keras_dyhead.coco.image_files import read_rgb
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.ops.arguments import check
from keras_dyhead.ops.boxes import box_area
from keras_dyhead.printable import counted


class CocoDataset(keras.utils.PyDataset):
    """Loads a COCO dataset as NumPy batches, on every backend and without TensorFlow.

    The batches `(images, targets)` are those of `load_coco` with one canvas, as arrays. With
    `training=True`, the order changes every epoch and some images are flipped. Only `load_coco`
    has the other variations of `Augmentation`. All batches but the last have the same shape, so
    JAX compiles a step once, or twice if the last batch is smaller.

    The batches of an epoch depend only on the seed and the epoch. Pass `shuffle=False` to `fit`,
    which otherwise shuffles the batches again with its own random state.

    Args:
        images: See `load_coco`, also for arguments that are not explained here.
        annotations: Path of the COCO JSON file, or a `CocoAnnotations`.
        batch_size: Images per batch. The last batch may be smaller. Defaults to `8`.
        image_size: The canvas: `(height, width)` in pixels. Defaults to `(512, 512)`.
        training: Whether to shuffle and flip. Defaults to `False`.
        preprocessor: A `DetectionPreprocessor`, usually `model.preprocessor`. Defaults to `None`.
        horizontal_flip: Probability of a horizontal flip in training. Defaults to `0.5`.
        class_names: Category names in label order. Defaults to `None`.
        on_error: `"raise"` or `"skip"`. A file that becomes unreadable later raises a `ValueError`
            or, with `"skip"`, becomes a black image without boxes. Defaults to `"raise"`.
        verify: Defaults to `True`.
        seed: Defaults to `None`: drawn from Python's `random`.
        max_boxes: Defaults to `None`: room for all.
        drop_remainder: Defaults to `False`.
        **kwargs: `workers`, `use_multiprocessing` and `max_queue_size` of `keras.utils.PyDataset`.

    Attributes:
        class_names: The name of each label.
        annotations: The `CocoAnnotations`, with all problems found.
        epoch: The next epoch. `fit` advances it, and you may set it.

    Raises:
        TypeError: If `preprocessor` is not a `DetectionPreprocessor`.
        ValueError: If an argument is out of range, no image is left, or, with `on_error="raise"`,
            images or annotations cannot be used. The message lists them.

    Example:
    ```python
    train = CocoDataset("train", "train.json", training=True, seed=0, workers=4)
    val = CocoDataset("val", "val.json", class_names=train.class_names)
    model.fit(train, epochs=12, shuffle=False, callbacks=[CocoEvaluation(val)])
    ```
    """

    def __init__(
        self,
        images: str | os.PathLike,
        annotations: str | os.PathLike | CocoAnnotations,
        batch_size: int = 8,
        image_size: tuple[int, int] = (512, 512),
        training: bool = False,
        *,
        preprocessor: DetectionPreprocessor | None = None,
        horizontal_flip: float = 0.5,
        class_names: Sequence[str] | None = None,
        on_error: str = "raise",
        verify: bool = True,
        seed: int | None = None,
        max_boxes: int | None = None,
        drop_remainder: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check("image_size", image_size, image_size is not None, "a (height, width)")
        self._canvas = DetectionPreprocessor(image_size)
        check("horizontal_flip", horizontal_flip, 0 <= horizontal_flip <= 1, "a probability")
        check_count(1, batch_size=batch_size, max_boxes=max_boxes)
        check_count(0, seed=seed)
        if not isinstance(preprocessor, DetectionPreprocessor | None):
            raise TypeError(
                "`preprocessor` must be a DetectionPreprocessor, such as `model.preprocessor`, or "
                f"None. Received: preprocessor={preprocessor!r}"
            )
        if not isinstance(annotations, CocoAnnotations):
            annotations = CocoAnnotations(
                annotations, images, class_names=class_names, on_error=on_error, verify=verify
            )
        if training and preprocessor is not None and preprocessor.image_size is None:
            sizes = np.array([(image.height, image.width) for image in annotations.images])
            limits = preprocessor.min_side, preprocessor.max_side
            warn_of_other_size(sizes, [tuple(image_size)], limits)
        self.annotations = annotations
        self.class_names = annotations.class_names
        self.batch_size = batch_size
        self.image_size = tuple(map(int, image_size))
        self.training = training
        self.preprocessor = preprocessor
        self.horizontal_flip = horizontal_flip if training else 0.0
        self.on_error = on_error
        self.seed = random.randrange(2**31) if seed is None else seed
        self.max_boxes = max_boxes or max(1, max(len(i.boxes) for i in annotations.images))
        self.drop_remainder = drop_remainder
        self.epoch, self._begun = 0, False
        if not len(self):
            raise ValueError(
                f"The images do not fill a batch of {batch_size}. "
                f"Received: {counted(len(annotations.images), 'image')} and drop_remainder=True"
            )

    def on_epoch_begin(self) -> None:
        """Begins an epoch. `fit` calls it."""
        self._begun = True

    def on_epoch_end(self) -> None:
        """Moves on to the next epoch. `fit` calls it, also once before the first epoch."""
        if self._begun:
            self.epoch += 1
        self._begun = False

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        batches, rest = divmod(len(self.annotations.images), self.batch_size)
        return batches + (rest > 0 and not self.drop_remainder)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns a batch of the epoch."""
        check("index", index, 0 <= index < len(self), f"less than {len(self)} batches")
        count = len(self.annotations.images)
        order = _draw_order(count, self.seed, self.epoch) if self.training else np.arange(count)
        rows = order[index * self.batch_size :][: self.batch_size]
        images, targets = zip(*map(self._load, rows.tolist()), strict=True)
        return np.stack(images), {
            key: np.stack([target[key] for target in targets]) for key in targets[0]
        }

    def _load(self, row: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        record = self.annotations.images[row]
        pixels, boxes, labels = self._read(record)
        original = record.height, record.width
        sizes = [self._canvas.resized_size(*original)]
        if self.preprocessor is not None and self.preprocessor.image_size is None:
            sizes.append(self.preprocessor.resized_size(*original))
        size = np.min(sizes, axis=0)
        scale = (size / original).astype("float32")
        pixels, boxes = self._resize(pixels, size.tolist()), boxes * np.tile(scale[::-1], 2)
        if self.horizontal_flip:
            draw = np.random.default_rng((self.seed, self.epoch, row)).uniform()
            if draw < self.horizontal_flip:
                pixels = pixels[:, ::-1]
                boxes = boxes * [-1, 1, -1, 1] + [size[1], 0, size[1], 0]
                boxes = boxes[:, [2, 1, 0, 3]]
        image = np.zeros((*self.image_size, 3), "float32")
        image[: size[0], : size[1]] = pixels
        targets = self._make_dense(boxes, labels)
        if not self.training:
            targets["image_id"] = np.array(record.number, "int64")
            targets["original_size"] = np.array(original, "int32")
            targets["scale"] = scale
        return image, targets

    def _read(self, record: CocoImage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, boxes and labels. A skipped file becomes a black image without boxes."""
        try:
            pixels = read_rgb(record.path)
            if pixels.shape[:2] != (record.height, record.width):
                raise ValueError(f"{record.path} differs in size from its annotation.")
        except ValueError as error:
            if self.on_error == "raise":
                raise
            warnings.warn(str(error), stacklevel=2)
            black = np.zeros((record.height, record.width, 3), "uint8")
            return black, record.boxes[:0], record.labels[:0]
        return pixels, record.boxes, record.labels

    def _resize(self, pixels: np.ndarray, size: Sequence[int]) -> np.ndarray:
        if self.preprocessor is None:
            return self._canvas.interpolate(pixels[None].astype("float32"), size)[0]
        return self.preprocessor.normalize(self.preprocessor.resize(pixels[None], size))[0]

    def _make_dense(self, boxes: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Pads boxes and labels with -1. If there are too many, keeps the largest boxes."""
        largest = np.sort(np.argsort(-box_area(boxes), kind="stable")[: self.max_boxes])
        dense = np.full((self.max_boxes, 5), -1, "float32")
        dense[: len(largest)] = np.column_stack([boxes, labels])[largest]
        return {"boxes": dense[:, :4], "labels": dense[:, 4]}


@functools.lru_cache(maxsize=4)  # datasets used in turn; drawing takes as long as a few images
def _draw_order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)
