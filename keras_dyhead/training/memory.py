"""Estimates the memory of a training step before the first one."""

import keras
import numpy as np

from keras_dyhead.detectors import Detector
from keras_dyhead.training.settings import TrainingSettings

_MAPS_OF_PYRAMID = 3  # lateral, merged, output
_MAPS_OF_BLOCK = 14  # three convolutions, their normalizations, the attentions, and gradients
_MAPS_OF_HEAD_LAYER = 6  # convolution, normalization and activation, twice
_WORKSPACE = 1.3  # extra memory of convolutions and the optimizer


def step_memory(model: Detector, settings: TrainingSettings) -> int:
    """Estimates how many bytes a training step takes on all devices together.

    Counts the weights, the optimizer's variables, and the feature maps that the backward pass
    needs, for the largest canvas. The estimate is rough: the one step that was measured, on a CPU,
    took nearly twice as much.
    """
    copies = 2 + (2 if settings.optimizer == "adamw" else 1) + (settings.ema_momentum is not None)
    sides = settings.canvases or [model.preprocessor.image_size]
    height, width = max(sides, key=np.prod)
    shape = (settings.batch_size, height, width, 3)
    backbone = model.backbone
    outputs = keras.tree.flatten([layer.output for layer in backbone.layers])
    maps = keras.Model(backbone.inputs, outputs).compute_output_shape(shape)
    values = sum(np.prod(one, dtype="float64") for one in maps)
    pyramid, blocks = model.pyramid, model.neck.num_blocks if model.neck is not None else 0
    levels = range(pyramid.min_level, pyramid.max_level + 1)
    cells = sum(-(-height // 2**level) * -(-width // 2**level) for level in levels)
    per_cell = _MAPS_OF_PYRAMID + blocks * _MAPS_OF_BLOCK
    per_cell += _MAPS_OF_HEAD_LAYER * (settings.head_layers or 1)
    values += settings.batch_size * cells * per_cell * pyramid.channels
    size = 2 if model.compute_dtype in ("float16", "bfloat16") else 4
    return int(_WORKSPACE * (copies * 4 * model.count_params() + size * values))
