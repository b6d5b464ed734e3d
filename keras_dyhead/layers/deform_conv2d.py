"""Deformable convolution as a Keras layer."""

import keras

from keras_dyhead.layers.pyramid_layer import check_maps
from keras_dyhead.ops.arguments import check, pair, whole_number
from keras_dyhead.ops.deform_conv import check_shapes, deform_conv2d, resolve_padding


@keras.saving.register_keras_serializable(package="keras_dyhead")
class DeformConv2D(keras.layers.Layer):
    """Modulated deformable convolution (DCNv2) with offsets and mask as inputs.

    It adds only a kernel and a bias to `keras_dyhead.ops.deform_conv2d`. Offsets usually come from
    a zero-initialized convolution, so that the layer starts as an ordinary convolution.

    Args:
        filters: Number of output channels.
        kernel_size: Int or pair. Defaults to 3.
        strides: Int or pair. Defaults to 1.
        padding: `"same"` (default; `dilation_rate * (k - 1) // 2` pixels on both sides), `"valid"`,
            an int or a pair of pixels.
        dilation_rate: Int or pair. Defaults to 1.
        groups: Number of groups of input and output channels. Defaults to 1.
        offset_groups: Number of groups of input channels with separate offsets. Defaults to 1.
        use_bias: Whether to add a bias. Defaults to `True`.
        kernel_initializer: Defaults to uniform in `+-1 / sqrt(fan_in)`, as in the published code.
        bias_initializer: Defaults to `"zeros"`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(B, H, W, C)`.
        offsets: Tensor of shape `(B, Ho, Wo, offset_groups * kh * kw * 2)`, (y, x) per tap, pixels.
        mask: Tensor of shape `(B, Ho, Wo, offset_groups * kh * kw)` or `None`.

    Returns:
        Tensor of shape `(B, Ho, Wo, filters)`.

    Example:

    >>> x = keras.Input((32, 32, 16))
    >>> offsets = keras.layers.Conv2D(18, 3, padding="same", kernel_initializer="zeros")(x)
    >>> DeformConv2D(filters=32)(x, offsets).shape
    (None, 32, 32, 32)
    """

    def __init__(
        self,
        filters: int,
        kernel_size=3,
        strides=1,
        padding="same",
        dilation_rate=1,
        groups: int = 1,
        offset_groups: int = 1,
        use_bias: bool = True,
        kernel_initializer=None,
        bias_initializer="zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = whole_number(filters, "filters")
        self.groups = whole_number(groups, "groups")
        self.offset_groups = whole_number(offset_groups, "offset_groups")
        check("filters", filters, filters % groups == 0, f"a multiple of groups={groups}")
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.strides = pair(strides, "strides")
        self.dilation_rate = pair(dilation_rate, "dilation_rate")
        self._pixels = resolve_padding(padding, self.kernel_size, self.dilation_rate)
        self.padding = padding if isinstance(padding, str) else self._pixels
        self.use_bias = use_bias
        self.kernel_initializer = (
            uniform_fan_in()
            if kernel_initializer is None
            else keras.initializers.get(kernel_initializer)
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, inputs_shape, offsets_shape=None, mask_shape=None):
        check_maps([inputs_shape])
        channels = inputs_shape[-1]
        if channels % self.groups or channels % self.offset_groups:
            raise ValueError(
                "The number of input channels must be a multiple of `groups` and `offset_groups`. "
                f"Received: input shape {tuple(inputs_shape)}, groups={self.groups}, "
                f"offset_groups={self.offset_groups}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: channels})
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, channels // self.groups, self.filters),
            initializer=self.kernel_initializer,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.filters,), initializer=self.bias_initializer
            )
        self.built = True

    def call(self, inputs, offsets, mask=None):
        return deform_conv2d(
            inputs,
            offsets,
            mask,
            self.kernel,
            self.bias,
            strides=self.strides,
            padding=self._pixels,
            dilation_rate=self.dilation_rate,
            groups=self.groups,
            offset_groups=self.offset_groups,
        )

    def compute_output_spec(self, *maps, **named):
        """Checks the shapes of symbolic tensors. Keras leaves out masks in other checks."""
        shapes = [x if x is None else x.shape for x in maps]
        named = {f"{name}_shape": x if x is None else x.shape for name, x in named.items()}
        return keras.KerasTensor(self.compute_output_shape(*shapes, **named), self.compute_dtype)

    def compute_output_shape(self, inputs_shape, offsets_shape, mask_shape=None):
        check_shapes(
            tuple(inputs_shape),
            tuple(offsets_shape),
            mask_shape and tuple(mask_shape),
            (*self.kernel_size, inputs_shape[-1] // self.groups, self.filters),
            None,
            strides=self.strides,
            padding=self._pixels,
            dilation_rate=self.dilation_rate,
            groups=self.groups,
            offset_groups=self.offset_groups,
        )
        return (*offsets_shape[:-1], self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "padding": self.padding,
            "dilation_rate": self.dilation_rate,
            "groups": self.groups,
            "offset_groups": self.offset_groups,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }


def uniform_fan_in() -> keras.initializers.Initializer:
    """Uniform in `+-1 / sqrt(fan_in)`, as published deformable kernels are initialized."""
    return keras.initializers.VarianceScaling(1 / 3, mode="fan_in", distribution="uniform")
