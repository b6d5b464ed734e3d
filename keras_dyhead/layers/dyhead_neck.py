"""Dynamic Head: a stack of blocks that refines a feature pyramid."""

from collections.abc import Iterator

import keras
from keras import ops

from keras_dyhead.layers.block_trace import BlockTrace
from keras_dyhead.layers.dyhead_block import DyHeadBlock
from keras_dyhead.layers.pyramid_layer import PyramidLayer, listed
from keras_dyhead.layers.shared_trace import SharedTrace
from keras_dyhead.ops.arguments import whole_number


@keras.saving.register_keras_serializable(package="keras_dyhead")
class DyHeadNeck(PyramidLayer):
    """Refines a feature pyramid with `num_blocks` Dynamic Head blocks.

    Fits between any feature pyramid and any prediction heads.

    Args:
        num_blocks: Number of blocks. Defaults to 6, as in the paper. With 0, levels are
            only projected, where needed.
        channels: Number of output channels of every level, a multiple of 16. Defaults to 256.
        alignment: `"paper"` (default) or `"published"`, which published weights need; see
            `SpatialAwareAttention`.
        use_spatial_attention: `False` samples the regular grid (ordinary convolutions).
        use_scale_attention: `False` averages neighboring levels with equal weights.
        use_task_attention: `False` replaces the dynamic ReLU with an ordinary one.
        use_bias: Whether the deformable convolutions have a bias. `True` (default) matches
            Microsoft's weights, `False` OpenMMLab's.
        start: Initialization. With `"identity"` (default), each block starts by passing the pyramid
            on almost unchanged, with values as large as those of a pyramid. `"released"` is the
            start of the released code and of the published detectors. The two also differ by a
            factor of 8 in the weights that predict offsets: `keras_dyhead.checkpoints` handles it.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Pyramid: dict `{"P3": map, ...}` or list of maps `(B, H_l, W_l, C_l)`, fine to
            coarse. Each is half the size of the previous one, rounded up or down. H and W may be
            unknown until the call. 1x1 convolutions project levels with other numbers of channels.

    Returns:
        Pyramid with the same keys (or a list) and sizes. Every level has `channels` channels.

    Raises:
        ValueError: If the inputs do not form such a pyramid, or channels change between calls.

    Example:

    >>> pyramid = {f"P{i}": keras.Input((None, None, 256)) for i in range(3, 8)}
    >>> outputs = DyHeadNeck(num_blocks=2)(pyramid)
    >>> outputs["P3"].shape
    (None, None, None, 256)

    Source: Dai et al., "Dynamic Head: Unifying Object Detection Heads with Attentions" (CVPR 2021).
    """

    def __init__(
        self,
        num_blocks: int = 6,
        channels: int = 256,
        alignment: str = "paper",
        use_spatial_attention: bool = True,
        use_scale_attention: bool = True,
        use_task_attention: bool = True,
        use_bias: bool = True,
        start: str = "identity",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_blocks = whole_number(num_blocks, "num_blocks", smallest=0)
        self.channels = whole_number(channels, "channels")
        self.alignment = alignment
        self.use_spatial_attention = use_spatial_attention
        self.use_scale_attention = use_scale_attention
        self.use_task_attention = use_task_attention
        self.use_bias = use_bias
        self.start = start
        self.blocks = [
            DyHeadBlock(
                channels,
                alignment,
                use_spatial_attention,
                use_scale_attention,
                use_task_attention,
                use_bias,
                start,
                dtype=self.dtype_policy,
                name=f"block_{i}",
            )
            for i in range(num_blocks)
        ]

    def build(self, input_shape):
        named = self.check_levels(input_shape)
        self._widths = [shape[-1] for shape in named.values()]
        self.projections = []
        for name, shape in named.items():
            projection = None
            if shape[-1] != self.channels:
                projection = keras.layers.Conv2D(
                    self.channels,
                    1,
                    data_format="channels_last",
                    dtype=self.dtype_policy,
                    name=f"projection_{name}",
                )
                projection.build(shape)
            self.projections.append(projection)
        shapes = [(*shape[:-1], self.channels) for shape in named.values()]
        for block in self.blocks:
            block.build(shapes)
        self._run_blocks = SharedTrace(self.blocks)
        self.built = True

    def check_levels(self, shapes):
        levels = super().check_levels(shapes)
        if self.built and self._widths != [shape[-1] for shape in levels.values()]:
            raise ValueError(
                f"The neck was built for levels with {self._widths} channels. "
                f"Received: shapes {shapes}"
            )
        return levels

    def call(self, inputs, training=False):
        levels = self._run_blocks(self._project(inputs), training=bool(training))
        return dict(zip(inputs, levels, strict=True)) if isinstance(inputs, dict) else levels

    def trace(self, inputs) -> Iterator[BlockTrace]:
        """Computes the outputs block by block and yields the intermediate results of each block.

        For visualization and tests. A trace is several times the size of the pyramid: keep only
        what you need before you request the next one.
        """
        levels = self._project(inputs)
        for block in self.blocks:
            trace = block.trace(levels)
            levels = trace.outputs
            yield trace

    def _project(self, inputs):
        """Returns a list of the levels, projected to `channels` channels."""
        levels = [ops.cast(level, self.compute_dtype) for level in listed(inputs)]
        return [
            projection(level) if projection else level
            for projection, level in zip(self.projections, levels, strict=True)
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "num_blocks": self.num_blocks,
            "channels": self.channels,
            "alignment": self.alignment,
            "use_spatial_attention": self.use_spatial_attention,
            "use_scale_attention": self.use_scale_attention,
            "use_task_attention": self.use_task_attention,
            "use_bias": self.use_bias,
            "start": self.start,
        }
