"""Swin Transformers."""

from collections.abc import Sequence

import keras

from keras_dyhead.backbones.swin_layers import EPSILON, PatchEmbedding, PatchMerging, SwinBlock
from keras_dyhead.layers.frozen import CompositeModel
from keras_dyhead.ops.arguments import check, warn_ignored


@keras.saving.register_keras_serializable(package="keras_dyhead")
class SwinBackbone(CompositeModel):
    """Swin Transformer for images of any size, as in published detectors.

    | | embed_dim | depths | num_heads |
    |---|---|---|---|
    | tiny | 96 | 2, 2, 6, 2 | 3, 6, 12, 24 |
    | small | 96 | 2, 2, 18, 2 | 3, 6, 12, 24 |
    | base | 128 | 2, 2, 18, 2 | 4, 8, 16, 32 |
    | large | 192 | 2, 2, 18, 2 | 6, 12, 24, 48 |

    There is no absolute position embedding. Each output has its own normalization.

    Args:
        embed_dim: int. Channels of the first stage; each stage doubles them. Defaults to 96.
        depths: Four ints, blocks of each stage. Every second block shifts its windows by
            `window_size // 2`. Defaults to `(2, 2, 6, 2)`.
        num_heads: Four ints, attention heads of each stage. Defaults to `(3, 6, 12, 24)`.
        window_size: int. Side of attention windows, 7 or 12 in published models. Defaults to 7.
        drop_path_rate: float. Probability of skipping a residual branch in training. It grows
            linearly from 0 in the first block to this value in the last. Defaults to 0.2.
        min_level: int, 2 to 5. Finest level to return. Defaults to 3, as in published detectors:
            their weights have no normalization for P2.
        image_shape: Shape of an image. Defaults to `(None, None, 3)`.
        dtype: Dtype policy of all layers. Attention weights and normalization are computed in
            at least float32. Defaults to the global policy.
        **kwargs: `name` and `trainable`.

    Call arguments:
        images: `(B, H, W, 3)` normalized images, of any size.

    Returns:
        Dict `{"P3": (B, H / 8, W / 8, 2 * embed_dim), ..., "P5": (B, H / 32, W / 32,
        8 * embed_dim)}`, with sizes rounded up. The attribute `pyramid_outputs` has the maps as
        symbolic tensors.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    ```python
    backbone = SwinBackbone(embed_dim=24, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8))
    {level: x.shape for level, x in backbone(keras.ops.ones((1, 100, 64, 3))).items()}
    # {'P3': (1, 13, 8, 48), 'P4': (1, 7, 4, 96), 'P5': (1, 4, 2, 192)}
    ```

    Source: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
    ICCV 2021 (https://arxiv.org/abs/2103.14030).
    """

    def __init__(
        self,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path_rate: float = 0.2,
        min_level: int = 3,
        image_shape=(None, None, 3),
        dtype=None,
        **kwargs,
    ):
        if len(depths) != 4 or len(num_heads) != 4:
            raise ValueError(
                "`depths` and `num_heads` must have four entries, one per stage. "
                f"Received: depths={tuple(depths)}, num_heads={tuple(num_heads)}"
            )
        check("min_level", min_level, 2 <= min_level <= 5, "from 2 to 5")
        warn_ignored(type(self).__name__, kwargs)
        dtype = keras.dtype_policies.get(dtype)

        images = keras.Input(image_shape, name="images")
        x = PatchEmbedding(embed_dim, name="patch_embed", dtype=dtype)(images)
        pyramid, blocks_before, last_block = {}, 0, max(sum(depths) - 1, 1)
        for stage, depth in enumerate(depths):
            for number in range(depth):
                x = SwinBlock(
                    num_heads[stage],
                    window_size,
                    shift=window_size // 2 if number % 2 else 0,
                    drop_path=drop_path_rate * (blocks_before + number) / last_block,
                    name=f"stage{stage}_block{number}",
                    dtype=dtype,
                )(x)
            blocks_before += depth
            level = stage + 2
            if level >= min_level:
                pyramid[f"P{level}"] = keras.layers.LayerNormalization(
                    epsilon=EPSILON, name=f"norm{stage}", dtype=dtype
                )(x)
            if stage < 3:
                x = PatchMerging(name=f"stage{stage}_downsample", dtype=dtype)(x)
        super().__init__(inputs=images, outputs=pyramid, **kwargs)

        self.embed_dim = embed_dim
        self.depths = tuple(depths)
        self.num_heads = tuple(num_heads)
        self.window_size = window_size
        self.drop_path_rate = drop_path_rate
        self.min_level = min_level
        self.image_shape = tuple(image_shape)
        self.pyramid_outputs = pyramid
        self.dtype_policy = dtype

    def get_config(self):
        return super().get_config() | {
            "embed_dim": self.embed_dim,
            "depths": self.depths,
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "drop_path_rate": self.drop_path_rate,
            "min_level": self.min_level,
        }
