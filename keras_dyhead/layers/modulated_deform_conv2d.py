"""Deformable convolution that predicts its own offsets and mask, as used in backbones."""

import keras
from keras import ops

from keras_dyhead.layers.deform_conv2d import DeformConv2D
from keras_dyhead.layers.frozen import CompositeLayer
from keras_dyhead.layers.full_precision import FullPrecisionConv2D


@keras.saving.register_keras_serializable(package="keras_dyhead")
class ModulatedDeformConv2D(CompositeLayer, DeformConv2D):
    """DCNv2: a deformable convolution whose offsets and mask another convolution predicts.

    The offset convolution has a bias and the kernel size, strides and padding of the layer. It has
    three outputs per tap: first all displacements (y, x), then the mask logits, which pass through
    a sigmoid. It is initialized with zeros: the layer starts as an ordinary convolution times a
    mask of 0.5. Offsets and mask are at least float32 under every dtype policy. Arguments are those
    of `DeformConv2D`, but it is called on the inputs alone.

    Source: Zhu et al., "Deformable ConvNets v2", CVPR 2019; `ModulatedDeformConv2dPack` of
    OpenMMLab, whose offset convolution orders its outputs in the same way.
    """

    def __init__(self, filters: int, kernel_size=3, **kwargs):
        super().__init__(filters, kernel_size, **kwargs)
        self._offset_channels = 2 * self.offset_groups * self.kernel_size[0] * self.kernel_size[1]
        self.offset_conv = FullPrecisionConv2D(
            self._offset_channels * 3 // 2,
            self.kernel_size,
            self.strides,
            data_format="channels_last",
            dilation_rate=self.dilation_rate,
            kernel_initializer="zeros",
            trainable=self.trainable,
            dtype=self.compute_dtype,
            name="offset_conv",
        )

    def build(self, input_shape):
        super().build(input_shape)
        self.offset_conv.build(self._padded(input_shape))

    def call(self, inputs):
        (rows, columns) = self._pixels  # symmetric, unlike Keras' "same"
        padding = ((0, 0), (rows, rows), (columns, columns), (0, 0))
        fields = self.offset_conv(ops.pad(ops.cast(inputs, self.compute_dtype), padding))
        offsets, mask_logits = ops.split(fields, [self._offset_channels], axis=-1)
        return super().call(inputs, offsets, ops.sigmoid(mask_logits))

    def compute_output_shape(self, input_shape):
        fields = self.offset_conv.compute_output_shape(self._padded(input_shape))
        return (*fields[:-1], self.filters)

    def _padded(self, shape):
        batch, *sizes, channels = shape
        sizes = (n and n + 2 * p for n, p in zip(sizes, self._pixels, strict=True))
        return (batch, *sizes, channels)
