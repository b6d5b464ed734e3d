"""One block of Dynamic Head: the three attentions in sequence."""

import keras
import numpy as np
from keras import ops

from keras_dyhead.layers.block_trace import BlockTrace
from keras_dyhead.layers.scale_attention import ScaleAwareAttention
from keras_dyhead.layers.spatial_attention import (
    SpatialAwareAttention,
    by_level,
    global_mean,
    per_map,
)
from keras_dyhead.layers.task_attention import TaskAwareAttention


@keras.saving.register_keras_serializable(package="keras_dyhead")
class DyHeadBlock(keras.layers.Layer):
    """Spatial-, scale- and task-aware attention over a feature pyramid.

    All levels share the weights and are computed from the block's input.

    Args:
        channels: Number of output channels, a multiple of 16.
        alignment: `"paper"` (default) or `"published"`, see `SpatialAwareAttention`.
        use_spatial_attention: `False` samples the regular grid (ordinary convolutions).
        use_scale_attention: `False` averages the neighbouring levels without weights.
        use_task_attention: `False` replaces the dynamic ReLU by an ordinary one.
        use_bias: Whether the deformable convolutions have a bias. Defaults to `True`.
        start: Initial values, `"identity"` (default) or `"released"`, see `DyHeadNeck`.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        inputs: Pyramid, fine to coarse: list or dict of maps `(B, H_l, W_l, C)` whose sizes halve
            from level to level, rounded up.

    Returns:
        Pyramid of the same structure and sizes, with `channels` channels.

    Example:

    >>> pyramid = {f"P{i}": keras.random.normal((1, 2**(8 - i), 2**(8 - i), 32)) for i in (3, 4, 5)}
    >>> {name: x.shape for name, x in DyHeadBlock(channels=32)(pyramid).items()}
    {'P3': (1, 32, 32, 32), 'P4': (1, 16, 16, 32), 'P5': (1, 8, 8, 32)}

    Source: paper, section 3.2 and figure 2(a). The paper writes scale before spatial attention; the
    released code, followed here, samples first and weighs the samples.
    """

    def __init__(
        self,
        channels: int,
        alignment: str = "paper",
        use_spatial_attention: bool = True,
        use_scale_attention: bool = True,
        use_task_attention: bool = True,
        use_bias: bool = True,
        start: str = "identity",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.alignment = alignment
        self.use_spatial_attention = use_spatial_attention
        self.use_scale_attention = use_scale_attention
        self.use_task_attention = use_task_attention
        self.use_bias = use_bias
        self.start = start
        self.spatial_attention = SpatialAwareAttention(
            channels,
            alignment=alignment,
            use_spatial_attention=use_spatial_attention,
            use_bias=use_bias,
            start=start,
            dtype=self.dtype_policy,
            name="spatial_attention",
        )
        self.scale_attention = (
            ScaleAwareAttention(dtype=self.dtype_policy, name="scale_attention")
            if use_scale_attention
            else None
        )
        self.task_attention = (
            TaskAwareAttention(start=start, dtype=self.dtype_policy, name="task_attention")
            if use_task_attention
            else None
        )

    def build(self, input_shape):
        shapes = list(input_shape.values()) if isinstance(input_shape, dict) else list(input_shape)
        self.spatial_attention.build(shapes)
        output_shape = (*shapes[0][:-1], self.channels)
        if self.scale_attention:
            self.scale_attention.build([output_shape])
        if self.task_attention:
            self.task_attention.build(output_shape)
        self.built = True

    def call(self, inputs):
        levels = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
        maps = self.spatial_attention.convolve(levels)
        # The gradient computes again what lies between the maps and the results, and would
        # otherwise keep several times their size for it.
        statistics = keras.remat(self.spatial_attention.statistics)(*maps)
        outputs = keras.remat(self._combine)(*self._coefficients(*statistics), *maps)
        return dict(zip(inputs, outputs, strict=True)) if isinstance(inputs, dict) else outputs

    def _coefficients(self, mean, variance, fitted_mean):
        """Works out all that is to be done to the pixels, from means and variances of the maps.

        Returns:
            The factor of each map `(B, maps, C)`; then for every level the slope and intercept of
            each line whose maximum is the output `(B, levels, C)`.
        """
        scale, shift = self.spatial_attention.normalisation(mean, variance)
        mean = fitted_mean * scale + shift
        branches = by_level(range(mean.shape[1]))
        share = np.zeros((mean.shape[1], 1))
        for maps in branches:
            share[maps] = 1 / len(maps)
        share = ops.convert_to_tensor(share, dtype=mean.dtype)
        if self.scale_attention:
            share = share * self.scale_attention.gates(mean)

        def add_maps(values):
            values = ops.unstack(values, axis=1)
            return ops.stack([sum(values[i] for i in maps) for maps in branches], axis=1)

        mean, shift = add_maps(mean * share), add_maps(shift * share)
        if not self.task_attention:
            return scale * share, shift
        a1, b1, a2, b2 = self.task_attention.coefficients(mean)
        return scale * share, a1, a1 * shift + b1, a2, a2 * shift + b2

    def _combine(self, *tensors):
        """Adds up the maps of every level, weighted, and takes the maximum of the two lines."""
        num_coefficients = 5 if self.task_attention else 2
        factors, *lines = (
            per_map(ops.cast(values, self.compute_dtype)) for values in tensors[:num_coefficients]
        )
        maps = self.spatial_attention.fit_to_levels(tensors[num_coefficients:])
        levels = [
            sum(values * factor for values, factor in branches)
            for branches in by_level(list(zip(maps, factors, strict=True)))
        ]
        if not self.task_attention:
            return [ops.relu(level + shift) for level, shift in zip(levels, *lines, strict=True)]
        return [
            ops.maximum(level * a1 + b1, level * a2 + b2)
            for level, a1, b1, a2, b2 in zip(levels, *lines, strict=True)
        ]

    def trace(self, inputs) -> BlockTrace:
        """Computes what a call computes, one attention after the other, and returns every step.

        For pictures and tests: a call passes over the pixels once and is quicker.

        Args:
            inputs: Pyramid, as for a call.
        """
        levels = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
        offsets, masks = self.spatial_attention.offsets_and_masks(levels)
        sampled = self.spatial_attention(levels)
        spatial = [sum(maps) / len(maps) for maps in sampled]
        if self.scale_attention:
            means = [ops.stack([global_mean(x) for x in maps], axis=1) for maps in sampled]
            weights = [ops.unstack(self.scale_attention.gates(x)[..., 0], axis=1) for x in means]
            scale = [self.scale_attention(maps) for maps in sampled]
        else:
            weights = [[ops.ones(ops.shape(x)[:1]) for x in maps] for maps in sampled]
            scale = spatial
        count = len(levels)
        names = by_level(["mid"] * count + ["low"] * (count - 1) + ["high"] * (count - 1))
        branches, weights = (
            [dict(zip(*pair, strict=True)) for pair in zip(names, values, strict=True)]
            for values in (sampled, weights)
        )
        task = self.task_attention or ops.relu
        outputs = [task(x) for x in scale]
        return BlockTrace(levels, offsets, masks, branches, spatial, weights, scale, outputs)

    def compute_output_shape(self, input_shape):
        def widen(shape):
            return (*shape[:-1], self.channels)

        if isinstance(input_shape, dict):
            return {name: widen(shape) for name, shape in input_shape.items()}
        return [widen(shape) for shape in input_shape]

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "alignment": self.alignment,
            "use_spatial_attention": self.use_spatial_attention,
            "use_scale_attention": self.use_scale_attention,
            "use_task_attention": self.use_task_attention,
            "use_bias": self.use_bias,
            "start": self.start,
        }
