"""What DyHead does to one image inside any Keras model: all that the pictures are drawn from."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import ops

from keras_dyhead.coco.image_files import as_rgb
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.layers import DyHeadNeck
from keras_dyhead.layers.block_trace import BlockTrace

Preprocessor = Callable[[np.ndarray], dict]


@dataclasses.dataclass(frozen=True)
class BlockView:
    """What the pictures need of a `BlockTrace`, as NumPy arrays without batch dimension.

    Attributes:
        norms: For each of `"spatial"`, `"scale"` and `"task"`, the norm over the channels of every
            level's map after that attention, `(H_l, W_l)`.
        offsets: For every level `(H_l, W_l, 9, 2)`, see `BlockTrace`.
        masks: For every level `(H_l, W_l, 9)`.
        weights: For every level a dict from `"mid"`, `"low"` and `"high"` to a number.
    """

    norms: dict[str, list[np.ndarray]]
    offsets: list[np.ndarray]
    masks: list[np.ndarray]
    weights: list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class View:
    """One image on its way through DyHead.

    Attributes:
        image: `(H, W, 3)` uint8, as it was before preprocessing.
        levels: Names of the pyramid's levels, fine to coarse.
        strides: For every level the (height, width) of a cell, in pixels of `image`.
        alignment: That of the `DyHeadNeck`.
        before: For every level the norm over the channels of the map that DyHead receives.
        blocks: One `BlockView` per block.
    """

    image: np.ndarray
    levels: list[str]
    strides: list[tuple[float, float]]
    alignment: str
    before: list[np.ndarray]
    blocks: list[BlockView]


def look_inside(
    model: keras.Model, image: np.ndarray, preprocessor: Preprocessor | None = None
) -> View:
    """Runs a model on an image and records what its `DyHeadNeck` does.

    Args:
        model: A model from images `(B, H, W, 3)` with one `DyHeadNeck` in it, however deep.
        image: RGB, RGBA or gray image, values 0..255.
        preprocessor: See `plot_attention`.

    Raises:
        ValueError: If `image` is no image, or the model has not exactly one `DyHeadNeck` with
            at least one block, or does not take an image.
    """
    image = as_rgb(image)
    neck = find_neck(model)
    inputs = getattr(model, "inputs", None)
    if inputs and [len(x.shape) for x in inputs] != [4]:
        raise ValueError(
            "The model must take images (B, H, W, 3) and nothing else. Received a model of inputs "
            f"{[tuple(x.shape) for x in inputs]}"
        )
    batch = (preprocessor or default_preprocessor(model, image.shape[:2]))(image[None])
    with _recorded_inputs(neck) as calls:
        model(_as_model_takes_it(model, batch["images"]), training=False)
    pyramid = calls[0]
    before, blocks = [], []
    for trace in neck.trace(pyramid):
        before = before or _norms(trace.inputs)
        blocks.append(_reduce(trace))
    canvas, scales = ops.shape(batch["images"])[1:3], ops.convert_to_numpy(batch["scales"])[0]
    finest = _log2_stride(canvas, before[0].shape)
    strides = [2 ** (finest + i) for i in range(len(before))]
    names = (
        list(pyramid)
        if isinstance(pyramid, dict)
        else [f"P{finest + i}" for i in range(len(before))]
    )
    return View(
        image=image,
        levels=names,
        strides=[(stride / float(scales[0]), stride / float(scales[1])) for stride in strides],
        alignment=neck.alignment,
        before=before,
        blocks=blocks,
    )


def find_neck(model: keras.Model) -> DyHeadNeck:
    """Returns the one `DyHeadNeck` of a model, however deep inside."""
    necks = [layer for layer in model._flatten_layers() if isinstance(layer, DyHeadNeck)]
    if len(necks) != 1 or not necks[0].blocks:
        found = [f"{neck.name} with {neck.num_blocks} blocks" for neck in necks]
        raise ValueError(
            "The model must contain one DyHeadNeck with at least one block. "
            f"Received: {model.name} with {' and '.join(found) or 'none'}"
        )
    return necks[0]


def default_preprocessor(model: keras.Model, size: tuple[int, int]) -> Preprocessor:
    """The preprocessor of one of our detectors; else one that only fits the image in."""
    own = getattr(model, "preprocessor", None)
    if isinstance(own, DetectionPreprocessor):
        return own
    inputs = getattr(model, "inputs", None)
    fixed = tuple(inputs[0].shape[1:3]) if inputs else (None, None)
    values = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if None not in fixed:
        return DetectionPreprocessor(image_size=fixed, **values)
    return DetectionPreprocessor(min_side=min(size), max_side=max(size), **values)


def _as_model_takes_it(model: keras.Model, images):
    """Images in the structure of the model's input, such as KerasCV's `{"images": ...}`."""
    if not getattr(model, "inputs", None):
        return images
    return keras.tree.pack_sequence_as(model.input, [images])


@contextlib.contextmanager
def _recorded_inputs(neck: DyHeadNeck) -> Iterator[list]:
    """Lists what the neck is called with meanwhile, also from inside another layer's `call`."""
    call, received = neck.call, []

    def record(inputs, training=False):
        received.append(inputs)
        return call(inputs, training=training)

    neck.call = record
    try:
        yield received
    finally:
        del neck.call


def _reduce(trace: BlockTrace) -> BlockView:
    return BlockView(
        norms={
            "spatial": _norms(trace.spatial),
            "scale": _norms(trace.scale),
            "task": _norms(trace.outputs),
        },
        offsets=[ops.convert_to_numpy(x)[0] for x in trace.offsets],
        masks=[ops.convert_to_numpy(x)[0] for x in trace.masks],
        weights=[
            {name: float(ops.convert_to_numpy(x)[0]) for name, x in weights.items()}
            for weights in trace.weights
        ],
    )


def _norms(maps) -> list[np.ndarray]:
    return [ops.convert_to_numpy(ops.norm(ops.cast(x[0], "float32"), axis=-1)) for x in maps]


def _log2_stride(canvas, size) -> int:
    """How often a map is half as large as the image; its last cells may stick out."""
    return round(np.log2(max(int(canvas[0]) / size[0], int(canvas[1]) / size[1])))
