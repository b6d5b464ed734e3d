"""Records what DyHead does to an image inside any Keras model, as the source of all plots."""

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
from keras_dyhead.ops.arguments import check
from keras_dyhead.printable import counted

Preprocessor = Callable[[np.ndarray], dict]


@dataclasses.dataclass(frozen=True)
class BlockView:
    """The parts of a `BlockTrace` for plots, as NumPy arrays without batch dimension.

    Attributes:
        norms: For each of `"spatial"`, `"scale"` and `"task"`, the norm over the channels of every
            level's map after that attention, `(H_l, W_l)`.
        offsets: `(H_l, W_l, 9, 2)` per level, see `BlockTrace`.
        masks: `(H_l, W_l, 9)` per level.
        weights: Per level, a dict from `"mid"`, `"low"` and `"high"` to a number.
    """

    norms: dict[str, list[np.ndarray]]
    offsets: list[np.ndarray]
    masks: list[np.ndarray]
    weights: list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class View:
    """The computation of DyHead for one image.

    Attributes:
        image: `(H, W, 3)` uint8, before preprocessing.
        levels: Names of the pyramid's levels, fine to coarse.
        strides: The (height, width) of a cell per level, in pixels of `image`.
        alignment: `alignment` of the `DyHeadNeck`.
        before: The norm over the channels of each map that DyHead receives.
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

    Arguments and errors are those of `plot_attention`.
    """
    callable_ = preprocessor is None or callable(preprocessor)
    check("preprocessor", preprocessor, callable_, "a DetectionPreprocessor or a function")
    image = as_rgb(image)
    neck = find_neck(model)
    inputs = getattr(model, "inputs", None)
    if inputs and [len(x.shape) for x in inputs] != [4]:
        raise ValueError(
            "The model must take images (B, H, W, 3) as its only input. Received inputs of shapes "
            f"{[tuple(x.shape) for x in inputs]}"
        )
    batch = (preprocessor or default_preprocessor(model, image.shape[:2]))(image[None])
    images = batch["images"]
    if inputs:  # in the model's structure, such as KerasCV's `{"images": ...}`
        images = keras.tree.pack_sequence_as(model.input, [images])
    with _recorded_inputs(neck) as calls:
        model(images, training=False)
    pyramid = calls[0]
    before, blocks = [], []
    for trace in neck.trace(pyramid):
        before = before or _norms(trace.inputs)
        blocks.append(_reduce(trace))
    # The last cells of a map may extend beyond the image.
    cell_sides = np.divide(ops.shape(batch["images"])[1:3], before[0].shape)
    finest = round(np.log2(max(cell_sides)))
    levels = range(finest, finest + len(before))
    scale_y, scale_x = map(float, ops.convert_to_numpy(batch["scales"])[0])
    return View(
        image=image,
        levels=list(pyramid) if isinstance(pyramid, dict) else [f"P{n}" for n in levels],
        strides=[(2**n / scale_y, 2**n / scale_x) for n in levels],
        alignment=neck.alignment,
        before=before,
        blocks=blocks,
    )


def find_neck(model: keras.Model) -> DyHeadNeck:
    """Returns the only `DyHeadNeck` of a model, at any depth."""
    check("model", model, isinstance(model, keras.Layer), "a Keras model")
    necks = [layer for layer in model._flatten_layers() if isinstance(layer, DyHeadNeck)]
    if len(necks) != 1 or not necks[0].blocks:
        found = [f"{neck.name} with {counted(neck.num_blocks, 'block')}" for neck in necks]
        raise ValueError(
            "The model must contain one DyHeadNeck with at least one block. "
            f"Received: {model.name} with {' and '.join(found) or 'none'}"
        )
    return necks[0]


def default_preprocessor(model: keras.Model, size: tuple[int, int]) -> Preprocessor:
    """Returns the model's own preprocessor, or one that only resizes and pads."""
    own = getattr(model, "preprocessor", None)
    if isinstance(own, DetectionPreprocessor):
        return own
    inputs = getattr(model, "inputs", None)
    fixed = tuple(inputs[0].shape[1:3]) if inputs else (None, None)
    values = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    if None not in fixed:
        return DetectionPreprocessor(image_size=fixed, **values)
    return DetectionPreprocessor(min_side=min(size), max_side=max(size), **values)


@contextlib.contextmanager
def _recorded_inputs(neck: DyHeadNeck) -> Iterator[list]:
    """Lists the inputs of the neck's calls, including calls inside another layer's `call`."""
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
