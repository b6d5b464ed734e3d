"""What detectors cost: parameters, multiply-adds and latency, with and without DyHead."""

import dataclasses
import itertools
import math
import os
import platform
import statistics
import textwrap
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_dyhead.backbones import BACKBONES
from keras_dyhead.detectors import DETECTORS, Detector
from keras_dyhead.layers import DyHeadNeck
from keras_dyhead.ops import sparse_sampling

_PRODUCTS = ("Conv2D", "DepthwiseConv2dNative", "Einsum")
_PRODUCTS += ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "SparseMatrixMatMul")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one detector costs.

    Args:
        detector: Name of its class.
        blocks: Number of DyHead blocks.
        parameters: Number of weights, trainable or not.
        multiply_adds: As `count_multiply_adds` returns it, for one image.
        uncounted: Names of operations with products that could not be counted.
        milliseconds: Median time from a preprocessed image to its detections.
        slowdown: This time over that of the same detector without DyHead.
    """

    detector: str
    blocks: int
    parameters: int
    multiply_adds: int
    uncounted: tuple[str, ...]
    milliseconds: float
    slowdown: float


def profile_detectors(
    names: Sequence[str] = tuple(DETECTORS),
    blocks: Sequence[int] = (0, 1, 2, 4, 6),
    image_size: tuple[int, int] = (512, 512),
    backbone: str = "resnet50",
    rounds: int = 3,
    num_classes: int = 80,
    channels: int = 256,
    sparse: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> dict:
    """Measures detectors, built with random weights and their other arguments' defaults.

    The models of one detector are timed in turn, round by round, so that a machine that is slow
    for a while slows all of them.

    Args:
        names: Of `keras_dyhead.detectors.DETECTORS`. Defaults to all.
        blocks: Numbers of DyHead blocks; 0 is measured in any case. Defaults to (0, 1, 2, 4, 6).
        image_size: Height and width of the image. Defaults to (512, 512).
        backbone: One of `keras_dyhead.backbones.BACKBONES`. Defaults to `"resnet50"`.
        rounds: Times that each model is timed; the median counts. Defaults to 3.
        num_classes: Defaults to 80.
        channels: Of pyramid, DyHead and heads. Defaults to 256.
        sparse: Whether to sample by sparse products, see `sparse_sampling`. Defaults to `False`.
        progress: Is called with a description before every step of `num_steps`. Defaults to
            nothing.

    Returns:
        Dict `{"machine", "settings", "costs"}` that `json` can write.

    Raises:
        ValueError: If an argument is none of those named above.
    """
    for name in names:
        _check("detector", name, DETECTORS)
    _check("backbone", backbone, BACKBONES)
    blocks = sorted({0, *blocks})
    if min(blocks) < 0 or rounds < 1 or min(image_size) < 32:
        raise ValueError(
            "`blocks` must be at least 0, `rounds` at least 1, `image_size` at least 32 px. "
            f"Received: blocks={blocks}, rounds={rounds}, image_size={image_size}"
        )
    settings = {
        "image_size": list(image_size),
        "backbone": backbone,
        "num_classes": num_classes,
        "channels": channels,
        "dtype": keras.config.dtype_policy().name,
        "rounds": rounds,
        "sampling": "sparse products" if sparse else "gathers",
    }
    costs = []
    for name in names:
        models = {}
        for number in blocks:
            detector, (cls, arguments) = DETECTORS[name], BACKBONES[backbone]
            progress(f"building {detector.__name__} with {number} blocks")
            models[number] = detector(
                cls(**arguments, image_shape=(*image_size, 3)),
                num_classes=num_classes,
                neck=DyHeadNeck(number, channels) if number else None,
                pyramid=detector.default_pyramid(channels),
                image_shape=(*image_size, 3),
            )
        with sparse_sampling(sparse):
            times = _time(models, rounds, progress)
        for number, model in models.items():
            progress(f"counting {type(model).__name__} with {number} blocks")
            multiply_adds, uncounted = count_multiply_adds(detection(model), image_size)
            cost = Cost(
                detector=type(model).__name__,
                blocks=number,
                parameters=model.count_params(),
                multiply_adds=multiply_adds,
                uncounted=uncounted,
                milliseconds=round(1000 * times[number], 1),
                slowdown=round(times[number] / times[0], 3),
            )
            costs.append(dataclasses.asdict(cost))
    return {"machine": _machine(), "settings": settings, "costs": costs}


def num_steps(names: Sequence[str], blocks: Sequence[int], rounds: int) -> int:
    """Returns how often `profile_detectors` calls `progress`."""
    return len(names) * len({0, *blocks}) * (3 + rounds)


def detection(model: Detector) -> Callable:
    """Returns the function from an image `(1, H, W, 3)`, preprocessed, to its detections."""

    def detect(images):
        image_sizes = ops.stack(ops.shape(images)[1:3])[None]
        return model.decode(model(images, training=False), image_sizes)

    return detect


def count_multiply_adds(function, image_size) -> tuple[int, tuple[str, ...]]:
    """Counts the multiply-adds of all convolutions and matrix products for one image.

    A multiplication and the addition of its result count as one, as in most papers on detection;
    whoever counts both gets twice the number. Interpolation in deformable sampling,
    normalisations, activations and other elementwise arithmetic are left out.

    Args:
        function: A model, a model's `detection`, or another function of images `(1, H, W, 3)`.
        image_size: Height and width of the image.

    Returns:
        The number, and the names of what has products that could not be counted: operations of
        unknown size, bodies of loops and branches. In this package that is RoIAlign alone, which
        reads as many pixels as its regions have.
    """
    signature = tf.TensorSpec((1, *image_size, 3), tf.float32)
    before = tf.config.functions_run_eagerly()
    # Inner functions, such as the trace that DyHead's blocks share, then are part of the graph.
    tf.config.run_functions_eagerly(True)
    try:
        graph = tf.function(function, autograph=False).get_concrete_function(signature).graph
    finally:
        tf.config.run_functions_eagerly(before)
    counts = {
        operation.name: _multiply_adds(operation)
        for operation in graph.get_operations()
        if operation.type in _PRODUCTS
    }
    uncounted = [name for name, count in counts.items() if count is None]
    uncounted += [
        function.signature.name
        for function in graph.as_graph_def().library.function
        if any(node.op in _PRODUCTS for node in function.node_def)
    ]
    return int(sum(count or 0 for count in counts.values())), tuple(uncounted)


def markdown_table(report: dict) -> str:
    """Writes a report of `profile_detectors` as a table with a line about how it was made."""
    settings, machine = report["settings"], report["machine"]
    height, width = settings["image_size"]
    text = (
        f"{settings['backbone']}, {settings['channels']} channels, {settings['num_classes']} "
        f"classes, one image of {height}x{width}, {settings['dtype']}, random weights, sampling by "
        f"{settings['sampling']}. GFLOPs: a billion multiply-adds of convolutions and matrix "
        "products (a multiplication with its addition counts as one). Latency: from the "
        f"preprocessed image to its detections, median of {settings['rounds']} on "
        f"{machine['device']}, TensorFlow {machine['tensorflow']}, Keras {machine['keras']}; in "
        "brackets, over that of the same detector without DyHead."
    )
    if any(cost["uncounted"] for cost in report["costs"]):
        text += " `>`: products of a size that depends on the image are left out."
    lines = [
        *textwrap.wrap(text, 100),
        "",
        "| detector | DyHead blocks | parameters | GFLOPs | latency |",
        "|---|---|---|---|---|",
    ]
    for cost in report["costs"]:
        at_least = "> " if cost["uncounted"] else ""
        lines.append(
            f"| {cost['detector']} | {cost['blocks']} | {cost['parameters'] / 1e6:.1f} M "
            f"| {at_least}{cost['multiply_adds'] / 1e9:.1f} "
            f"| {cost['milliseconds']:.0f} ms ({cost['slowdown']:.2f}x) |"
        )
    return "\n".join(lines) + "\n"


def _multiply_adds(operation) -> int | None:
    """Multiply-adds of one of `_PRODUCTS`, `None` where it is unknown."""
    kind, shapes = operation.type, [tensor.shape for tensor in operation.inputs]
    outputs = operation.outputs[0].shape
    if kind == "SparseMatrixMatMul" or not all(s.is_fully_defined() for s in (*shapes, outputs)):
        return None
    if kind == "Einsum":
        terms = operation.get_attr("equation").decode().split("->")[0].split(",")
        sizes = (zip(term, shape, strict=True) for term, shape in zip(terms, shapes, strict=True))
        return math.prod(dict(itertools.chain(*sizes)).values())
    first, second = shapes
    if kind == "Conv2D":
        inner = second[:3].num_elements()
    elif kind == "DepthwiseConv2dNative":
        inner = second[:2].num_elements()
    elif kind == "MatMul":
        inner = first[0 if operation.get_attr("transpose_a") else 1]
    else:
        inner = first[-2 if operation.get_attr("adj_x") else -1]
    return inner * outputs.num_elements()


def _time(models, rounds, progress) -> dict[int, float]:
    """Median seconds that each of the models, by their numbers of blocks, takes for one image."""
    image = np.random.default_rng(0).standard_normal((1, *models[0].image_shape), "float32")
    image, runs, times = tf.constant(image), {}, {}
    for number, model in models.items():
        progress(f"compiling {type(model).__name__} with {number} blocks")
        runs[number], times[number] = tf.function(detection(model), autograph=False), []
        runs[number](image)
    for _ in range(rounds):
        for number, run in runs.items():
            progress(f"timing {type(models[number]).__name__} with {number} blocks")
            start = time.perf_counter()
            run(image)["boxes"].numpy()
            times[number].append(time.perf_counter() - start)
    return {number: statistics.median(own) for number, own in times.items()}


def _machine() -> dict:
    gpus = len(tf.config.list_physical_devices("GPU"))
    cores = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return {
        "device": f"{gpus} GPU" if gpus else cores,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def _check(what, name, known):
    if name not in known:
        raise ValueError(f"`{what}` must be one of {list(known)}. Received: {name!r}")
