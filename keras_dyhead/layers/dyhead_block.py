"""One block of Dynamic Head: the three attentions in sequence."""

import keras
from keras import ops

from keras_dyhead.layers.affine_maps import WeightedMeans
from keras_dyhead.layers.block_trace import BlockTrace
from keras_dyhead.layers.pyramid_layer import PyramidLayer, listed
from keras_dyhead.layers.scale_attention import ScaleAwareAttention
from keras_dyhead.layers.spatial_attention import SpatialAwareAttention
from keras_dyhead.layers.task_attention import TaskAwareAttention
from keras_dyhead.ops.arguments import whole_number


@keras.saving.register_keras_serializable(package="keras_dyhead")
class DyHeadBlock(PyramidLayer):
    """Applies spatial-, scale- and task-aware attention to a feature pyramid.

    All levels share the weights. Every output level is computed from the inputs of the block.

    Args:
        channels: Number of output channels, a multiple of 16.
        alignment: As in `DyHeadNeck`, like the next five arguments.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Pyramid: list or dict of maps `(B, H_l, W_l, C)`, fine to coarse. Each is half the
            size of the previous one, rounded up or down.

    Returns:
        Pyramid of the same structure and sizes, with `channels` channels.

    Example:

    >>> pyramid = {f"P{i}": keras.random.normal((1, 2**(8 - i), 2**(8 - i), 32)) for i in (3, 4, 5)}
    >>> {name: x.shape for name, x in DyHeadBlock(channels=32)(pyramid).items()}
    {'P3': (1, 32, 32, 32), 'P4': (1, 16, 16, 32), 'P5': (1, 8, 8, 32)}

    Source: paper, section 3.2 and figure 2(a). The paper applies scale- before spatial-aware
    attention. The released code, followed here, first samples and then weights the samples.
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
        self.channels = whole_number(channels, "channels")
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
        self.spatial_attention.build(input_shape)
        output_shape = (*listed(input_shape)[0][:-1], self.channels)
        if self.scale_attention:
            self.scale_attention.build([output_shape])
        if self.task_attention:
            self.task_attention.build(output_shape)
        self.built = True

    def check_levels(self, shapes):
        return self.spatial_attention.check_levels(shapes)

    def call(self, inputs):
        # Equations 4, 3 and 5 of the paper. Between them, maps are known up to a scale and a shift
        # per channel (`affine_maps`): only the last attention computes their pixels.
        outputs = self.attend(self.spatial_attention.convolve(inputs))
        return dict(zip(inputs, outputs, strict=True)) if isinstance(inputs, dict) else outputs

    def attend(self, maps) -> list:
        """Computes the outputs from the convolved maps of the spatial-aware attention."""
        sampled = list(self.spatial_attention.normalize(maps).values())
        attention = self.scale_attention
        weighted = attention.weigh(sampled) if attention else WeightedMeans(sampled)
        return self.task_attention.rectify(weighted) if self.task_attention else weighted.relu()

    def trace(self, inputs) -> BlockTrace:
        """Applies one attention after the other and returns all intermediate results.

        For visualization and tests. Calling the layer gives the same outputs faster.
        """
        levels = listed(inputs)
        offsets, masks = self.spatial_attention.offsets_and_masks(levels)
        branches = self.spatial_attention(levels)
        maps = [list(x.values()) for x in branches]
        spatial = [sum(x) / len(x) for x in maps]
        if self.use_scale_attention:
            weights = [self.scale_attention.factors(x) for x in maps]
            scale = [self.scale_attention(x) for x in maps]
        else:
            weights = [[ops.ones(ops.shape(x)[:1]) for x in level] for level in maps]
            scale = spatial
        weights = [dict(zip(x, w, strict=True)) for x, w in zip(branches, weights, strict=True)]
        task = self.task_attention or ops.relu
        outputs = [task(x) for x in scale]
        return BlockTrace(levels, offsets, masks, branches, spatial, weights, scale, outputs)

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
