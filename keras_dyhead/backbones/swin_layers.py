"""The layers of Swin Transformers, on channels-last maps of any size."""

import keras
import numpy as np
from keras import ops

from keras_dyhead.ops.arguments import at_least_float32

EPSILON = 1e-5
MASKED = -100.0
PATCH = 4  # side in pixels
MLP_RATIO = 4  # hidden features per channel


@keras.saving.register_keras_serializable(package="keras_dyhead")
class PatchEmbedding(keras.layers.Layer):
    """Turns every 4x4 patch of an image into a normalized vector.

    Images `(B, H, W, 3)` are padded with zeros at the bottom and right to a multiple of 4. The
    result is `(B, ceil(H / 4), ceil(W / 4), channels)`.
    """

    def __init__(self, channels: int, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.proj = keras.layers.Conv2D(
            channels,
            PATCH,
            PATCH,
            data_format="channels_last",
            name="proj",
            dtype=self.dtype_policy,
        )
        self.norm = _layer_norm("norm", self.dtype_policy)

    def build(self, input_shape):
        self.proj.build((None, None, None, input_shape[-1]))
        self.norm.build((None, None, None, self.channels))
        self.built = True

    def call(self, images):
        return self.norm(self.proj(_pad_to_multiple(images, PATCH)))

    def get_config(self):
        return super().get_config() | {"channels": self.channels}


@keras.saving.register_keras_serializable(package="keras_dyhead")
class PatchMerging(keras.layers.Layer):
    """Halves a map and doubles its channels: normalizes 2x2 pixels and applies one matrix to them.

    The pixels are concatenated as blocks of C features in the order (row, column) (0, 0), (1, 0),
    (0, 1), (1, 1), as in Microsoft's, timm's and torchvision's weights. mmdet's weights have
    feature `4 * c + 2 * row + column` instead of `(2 * column + row) * C + c`.
    `array.reshape(C, 2, 2).transpose(2, 1, 0).reshape(4 * C)` converts a scale or shift of mmdet's
    normalization to the order used here, and likewise the input axis of its matrix.

    Odd sizes are padded with zeros at the bottom and right.
    """

    def build(self, input_shape):
        channels = input_shape[-1]
        self.norm = _layer_norm("norm", self.dtype_policy)
        self.norm.build((None, None, None, 4 * channels))
        self.reduction = _dense(2 * channels, "reduction", self.dtype_policy, use_bias=False)
        self.reduction.build((None, None, None, 4 * channels))
        self.built = True

    def call(self, inputs):
        x = _pad_to_multiple(inputs, 2)
        pixels = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(ops.concatenate(pixels, axis=-1)))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        height, width = (None if size is None else (size + 1) // 2 for size in (height, width))
        return (batch, height, width, 2 * channels)


@keras.saving.register_keras_serializable(package="keras_dyhead")
class SwinBlock(keras.layers.Layer):
    """Attention within (shifted) windows, then a two-layer MLP, both residual.

    The map is normalized first and then padded with zeros to whole windows, at the bottom and
    right. Padded pixels are attended to like others, as in the published code. Shifted blocks shift
    and mask even if the map is a single window. `drop_path` is the probability of skipping a
    residual branch of an image in training.
    """

    def __init__(
        self, num_heads: int, window_size: int = 7, shift: int = 0, drop_path: float = 0.0, **kwargs
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.window_size = window_size
        self.shift = shift
        self.drop_path = drop_path
        self.norm1 = _layer_norm("norm1", self.dtype_policy)
        self.attn = WindowAttention(num_heads, window_size, name="attn", dtype=self.dtype_policy)
        self.norm2 = _layer_norm("norm2", self.dtype_policy)
        self.skip = keras.layers.Dropout(
            drop_path, noise_shape=(None, 1, 1, 1), name="drop_path", dtype=self.dtype_policy
        )

    def build(self, input_shape):
        channels = input_shape[-1]
        self.fc1 = _dense(MLP_RATIO * channels, "fc1", self.dtype_policy)
        self.fc2 = _dense(channels, "fc2", self.dtype_policy)
        shape = (None, None, None, channels)
        self.norm1.build(shape)
        self.attn.build((None, None, channels))
        self.norm2.build(shape)
        self.fc1.build(shape)
        self.fc2.build((None, None, None, MLP_RATIO * channels))
        self.built = True

    def call(self, inputs, training=None):
        x = inputs + self.skip(self._attend(self.norm1(inputs)), training=training)
        hidden = ops.gelu(self.fc1(self.norm2(x)), approximate=False)
        return x + self.skip(self.fc2(hidden), training=training)

    def _attend(self, x):
        height, width = ops.shape(x)[1:3]
        x = _pad_to_multiple(x, self.window_size)
        padded = ops.shape(x)[1:3]
        regions = None
        if self.shift:
            x = _roll(x, self.shift)
            regions = _split_windows(self._regions(*padded), self.window_size)[..., 0]
        x = self.attn(_split_windows(x, self.window_size), regions)
        x = _join_windows(x, padded, self.window_size)
        if self.shift:
            x = _roll(x, -self.shift)
        return x[:, :height, :width]

    def _regions(self, height, width):
        """Numbers the parts of a rolled map that were not adjacent before: `(1, H, W, 1)`."""

        def bands(size):
            place = ops.arange(size, dtype="int32")
            window, shift = place >= size - self.window_size, place >= size - self.shift
            return ops.cast(window, "int32") + ops.cast(shift, "int32")

        return (3 * bands(height)[:, None] + bands(width))[None, ..., None]

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)  # JAX cannot split unknown sizes into windows

    def get_config(self):
        return super().get_config() | {
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "shift": self.shift,
            "drop_path": self.drop_path,
        }


@keras.saving.register_keras_serializable(package="keras_dyhead")
class WindowAttention(keras.layers.Layer):
    """Multi-head self-attention within windows, with a learned bias per relative position.

    Call arguments:
        windows: `(B * W, N, C)`, image by image; N is the square of the window's side.
        regions: `(W, N)` int32. Pixels of different regions do not attend to each other. Defaults
            to `None`: all do.
    """

    def __init__(self, num_heads: int, window_size: int, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.window_size = window_size

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise ValueError(
                "`num_heads` must divide the channels. "
                f"Received: num_heads={self.num_heads}, channels={channels}"
            )
        self.qkv = _dense(3 * channels, "qkv", self.dtype_policy)
        self.proj = _dense(channels, "proj", self.dtype_policy)
        self.qkv.build((None, None, channels))
        self.proj.build((None, None, channels))
        self.relative_position_bias_table = self.add_weight(
            name="relative_position_bias_table",
            shape=((2 * self.window_size - 1) ** 2, self.num_heads),
            initializer=_initializer(),
            autocast=False,
        )
        self.built = True

    def call(self, windows, regions=None):
        pixels, channels = self.window_size**2, windows.shape[-1]
        split = (-1, pixels, 3, self.num_heads, channels // self.num_heads)
        qkv = ops.transpose(ops.reshape(self.qkv(windows), split), (2, 0, 3, 1, 4))
        query, key, value = qkv[0], qkv[1], qkv[2]
        query = query * (channels // self.num_heads) ** -0.5
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        logits = ops.cast(logits, at_least_float32(self.compute_dtype))
        logits = logits + ops.cast(self._position_bias(), logits.dtype)
        if regions is not None:
            apart = ops.cast(regions[:, :, None] != regions[:, None, :], logits.dtype) * MASKED
            by_image = (-1, ops.shape(regions)[0], self.num_heads, pixels, pixels)
            logits = ops.reshape(logits, by_image) + apart[:, None]
            logits = ops.reshape(logits, (-1, self.num_heads, pixels, pixels))
        attention = ops.cast(ops.softmax(logits, axis=-1), self.compute_dtype)
        out = ops.transpose(ops.matmul(attention, value), (0, 2, 1, 3))
        return self.proj(ops.reshape(out, (-1, pixels, channels)))

    def _position_bias(self):
        """Returns the bias of each head and pair of pixels, `(heads, N, N)`."""
        size = self.window_size
        places = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1)
        places = places.reshape(-1, 2)
        offset = places[:, None] - places[None] + size - 1  # query minus key
        index = (offset[..., 0] * (2 * size - 1) + offset[..., 1]).astype("int32")
        bias = ops.take(self.relative_position_bias_table, index.reshape(-1), axis=0)
        return ops.reshape(ops.transpose(bias), (self.num_heads, size**2, size**2))

    def get_config(self):
        return super().get_config() | {"num_heads": self.num_heads, "window_size": self.window_size}


def _initializer():
    return keras.initializers.TruncatedNormal(stddev=0.02)


def _dense(units, name, dtype, use_bias=True):
    return keras.layers.Dense(
        units, use_bias=use_bias, kernel_initializer=_initializer(), name=name, dtype=dtype
    )


def _layer_norm(name, dtype):
    return keras.layers.LayerNormalization(epsilon=EPSILON, name=name, dtype=dtype)


def _pad_to_multiple(x, multiple):
    """Pads `(B, H, W, C)` with zeros at the bottom and right."""
    missing = [-size % multiple for size in ops.shape(x)[1:3]]
    if all(isinstance(pixels, int) and pixels == 0 for pixels in missing):
        return x
    return ops.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))


def _roll(x, shift):
    """Rolls rows and columns up and left by `shift`."""
    x = ops.concatenate([x[:, shift:], x[:, :shift]], axis=1)
    return ops.concatenate([x[:, :, shift:], x[:, :, :shift]], axis=2)


def _split_windows(x, size):
    """Splits `(B, H, W, C)` into windows, `(B * H * W / size**2, size**2, C)`."""
    width, channels = ops.shape(x)[2], x.shape[-1]
    x = ops.reshape(x, (-1, size, width // size, size * channels))
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, size * size, channels))


def _join_windows(windows, padded, size):
    """Reverses `_split_windows` for maps of the size `padded`, (height, width)."""
    height, width = padded
    channels = windows.shape[-1]
    x = ops.reshape(windows, (-1, width // size, size, size * channels))
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, height, width, channels))
