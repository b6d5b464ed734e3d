"""One block of Dynamic Head: the three attentions in sequence."""

import keras
from keras import ops

from keras_dyhead.layers.scale_attention import ScaleAwareAttention
from keras_dyhead.layers.spatial_attention import SpatialAwareAttention
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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = channels
        self.alignment = alignment
        self.use_spatial_attention = use_spatial_attention
        self.use_scale_attention = use_scale_attention
        self.use_task_attention = use_task_attention
        self.use_bias = use_bias
        self.spatial_attention = SpatialAwareAttention(
            channels,
            alignment=alignment,
            deformable=use_spatial_attention,
            use_bias=use_bias,
            dtype=self.dtype_policy,
            name="spatial_attention",
        )
        self.scale_attention = (
            ScaleAwareAttention(dtype=self.dtype_policy, name="scale_attention")
            if use_scale_attention
            else None
        )
        self.task_attention = (
            TaskAwareAttention(dtype=self.dtype_policy, name="task_attention")
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
        outputs = self._attend(self.spatial_attention.sample(levels))
        return dict(zip(inputs, outputs, strict=True)) if isinstance(inputs, dict) else outputs

    def _attend(self, pyramid):
        """Weighs the sampled maps of every level, adds them up and activates the sum.

        All of it is affine in the maps but for one maximum: means and coefficients of all maps are
        worked out together, as small tensors, and every pixel is touched once.
        """

        def by_level(values):
            """Splits axis 1, the maps, into one list per level."""
            parts = iter(ops.unstack(values, axis=1))
            return [[next(parts) for _ in branches] for branches in pyramid]

        samples = [sample for branches in pyramid for sample in branches]
        mean, scale, shift = (
            ops.stack([getattr(sample, name) for sample in samples], axis=1)
            for name in ("mean", "scale", "shift")
        )
        share = ops.convert_to_tensor(
            [[1 / len(branches)] for branches in pyramid for _ in branches], dtype=mean.dtype
        )
        if self.scale_attention:
            share = share * self.scale_attention.gates(mean * scale + shift)
        scale, shift = scale * share, shift * share

        def add_maps(values):
            """Sums of the maps of each level: `(B, levels, C)`."""
            return ops.stack([sum(maps) for maps in by_level(values)], axis=1)

        fused = [
            sum(sample.values * factor for sample, factor in zip(branches, factors, strict=True))
            for branches, factors in zip(pyramid, by_level(self._per_pixel(scale)), strict=True)
        ]
        mean, shift = add_maps(mean * scale + shift), add_maps(shift)
        if not self.task_attention:
            shifts = ops.unstack(self._per_pixel(shift), axis=1)
            return [ops.relu(level + b) for level, b in zip(fused, shifts, strict=True)]
        a1, b1, a2, b2 = self.task_attention.coefficients(mean)
        lines = (
            ops.unstack(self._per_pixel(values), axis=1)
            for values in (a1, a1 * shift + b1, a2, a2 * shift + b2)
        )
        return [
            ops.maximum(level * a1 + b1, level * a2 + b2)
            for level, a1, b1, a2, b2 in zip(fused, *lines, strict=True)
        ]

    def _per_pixel(self, values):
        return ops.cast(values, self.compute_dtype)[:, :, None, None]

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
        }
