"""ResNet and ResNeXt."""

from collections.abc import Sequence

import keras
from keras import layers

from keras_dyhead.backbones.resnet_layers import FrozenBatchNormalization, GroupedConv2D
from keras_dyhead.layers.frozen import CompositeModel
from keras_dyhead.layers.modulated_deform_conv2d import ModulatedDeformConv2D
from keras_dyhead.ops.arguments import check, check_choice, warn_ignored

STAGE_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
EPSILON = 1e-5
LAST = "channels_last"  # whatever Keras is set to


@keras.saving.register_keras_serializable(package="keras_dyhead")
class ResNetBackbone(CompositeModel):
    """ResNet-18 to ResNet-152 and ResNeXt, with the padding and strides of PyTorch's weights.

    Strided convolutions and the max pooling pad both sides equally. Keras' `"same"` would pad even
    sizes only at the bottom and right, which changes the results of published weights.

    Args:
        depth: int. 18, 34 (two 3x3 convolutions per block), 50, 101 or 152 (1x1, 3x3, 1x1).
            Defaults to 50.
        style: Which convolution of a three-convolution block has the stride: `"pytorch"`, the 3x3
            (torchvision, most of mmdet) or `"caffe"`, the first 1x1 (detectron2's MSRA weights,
            microsoft/DynamicHead, mmdet's `caffe`). Defaults to `"pytorch"`.
        batch_norm: `"frozen"` normalizes by stored statistics and trains nothing, `"affine"` trains
            only scale and shift, `"train"` is ordinary batch normalization, for training from
            scratch with large batches. Defaults to `"frozen"`.
        frozen_stages: int. Which convolutions do not train: -1 for none, 0 for the stem, 1 for the
            stem and `layer1`, and so on. Their normalization is fully frozen. Defaults to -1.
        groups: int. Groups of the 3x3 convolutions (ResNeXt). Defaults to 1.
        width_per_group: int. Channels per group in the first stage if `base_channels` is 64;
            ResNeXt-101-64x4d has 64 groups of 4. Defaults to 64.
        deformable_stages: Stages whose 3x3 convolutions, including strided ones, are modulated
            deformable convolutions (DCNv2, see `ModulatedDeformConv2D`). A stage is numbered by the
            level of its output: 2 is `layer1`, 3 to 5 are `layer2` to `layer4`. Published detectors
            "with DCN" use (3, 4, 5). Defaults to none.
        base_channels: int. Channels of the stem. Defaults to 64.
        image_shape: Shape of an image. Defaults to `(None, None, 3)`.
        dtype: Dtype policy of all layers. Defaults to the global policy.
        **kwargs: `name` and `trainable`.

    Call arguments:
        images: `(B, H, W, 3)` normalized images, of any size.

    Returns:
        Dict `{"P2": (B, H / 4, W / 4, C2), "P3": ..., "P4": ..., "P5": (B, H / 32, W / 32, C5)}`,
        with sizes rounded up. The attribute `pyramid_outputs` has the maps as symbolic tensors.

    Raises:
        ValueError: If an argument has a value that is not listed above.

    Example:
    ```python
    backbone = ResNetBackbone(18)
    {level: x.shape[-1] for level, x in backbone.pyramid_outputs.items()}
    # {'P2': 64, 'P3': 128, 'P4': 256, 'P5': 512}
    ```

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Xie et al.,
    "Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017; Zhu et al.,
    "Deformable ConvNets v2", CVPR 2019.
    """

    def __init__(
        self,
        depth: int = 50,
        style: str = "pytorch",
        batch_norm: str = "frozen",
        frozen_stages: int = -1,
        groups: int = 1,
        width_per_group: int = 64,
        deformable_stages: Sequence[int] = (),
        base_channels: int = 64,
        image_shape=(None, None, 3),
        dtype=None,
        **kwargs,
    ):
        check_choice("depth", depth, tuple(STAGE_BLOCKS))
        check_choice("style", style, ("pytorch", "caffe"))
        check_choice("batch_norm", batch_norm, ("frozen", "affine", "train"))
        check_choice("frozen_stages", frozen_stages, tuple(range(-1, 5)))
        deformable_stages = tuple(deformable_stages)
        known = set(deformable_stages) <= {2, 3, 4, 5}
        check("deformable_stages", deformable_stages, known, "among 2, 3, 4, 5")
        if depth < 50 and (groups, width_per_group, deformable_stages) != (1, 64, ()):
            raise ValueError(
                "`groups`, `width_per_group` and `deformable_stages` need blocks of three "
                f"convolutions, depth >= 50. Received: depth={depth}, groups={groups}, "
                f"width_per_group={width_per_group}, deformable_stages={deformable_stages}"
            )
        warn_ignored(type(self).__name__, kwargs)
        dtype = keras.dtype_policies.get(dtype)

        images = keras.Input(image_shape, name="images")
        stem = _Layers(dtype, batch_norm, trainable=frozen_stages < 0)
        x = stem.conv(images, base_channels, 7, 2, name="conv1")
        x = layers.ReLU(name="relu1", dtype=dtype)(stem.norm(x, "bn1"))
        # Padding with zeros equals padding with -inf: no value here is negative.
        x = layers.ZeroPadding2D(1, LAST, name="maxpool_pad", dtype=dtype)(x)
        x = layers.MaxPooling2D(3, 2, data_format=LAST, name="maxpool", dtype=dtype)(x)
        pyramid = {}
        for stage, num_blocks in enumerate(STAGE_BLOCKS[depth], start=1):
            make = _Layers(
                dtype, batch_norm, frozen_stages < stage, deformable=stage + 1 in deformable_stages
            )
            planes = base_channels * 2 ** (stage - 1)
            for number in range(num_blocks):
                name = f"layer{stage}_{number}_"
                strides = 2 if stage > 1 and number == 0 else 1
                if depth < 50:
                    x = make.basic_block(x, planes, strides, name)
                else:
                    width = planes * width_per_group // 64 * groups
                    x = make.bottleneck(x, width, planes * 4, strides, groups, style, name)
            pyramid[f"P{stage + 1}"] = x
        super().__init__(inputs=images, outputs=pyramid, **kwargs)

        self.depth = depth
        self.style = style
        self.batch_norm = batch_norm
        self.frozen_stages = frozen_stages
        self.groups = groups
        self.width_per_group = width_per_group
        self.deformable_stages = deformable_stages
        self.base_channels = base_channels
        self.image_shape = tuple(image_shape)
        self.pyramid_outputs = pyramid
        self.dtype_policy = dtype

    def get_config(self):
        return super().get_config() | {
            "depth": self.depth,
            "style": self.style,
            "batch_norm": self.batch_norm,
            "frozen_stages": self.frozen_stages,
            "groups": self.groups,
            "width_per_group": self.width_per_group,
            "deformable_stages": self.deformable_stages,
            "base_channels": self.base_channels,
        }


class _Layers:
    """Makes the layers of one stage and applies them."""

    def __init__(self, dtype, batch_norm, trainable, deformable=False):
        self.dtype = dtype
        self.batch_norm = batch_norm if trainable else "frozen"
        self.trainable = trainable
        self.deformable = deformable

    def basic_block(self, x, planes, strides, name):
        y = self.conv(x, planes, 3, strides, f"{name}conv1")
        y = self.relu(self.norm(y, f"{name}bn1"), f"{name}relu1")
        y = self.norm(self.conv(y, planes, 3, 1, f"{name}conv2"), f"{name}bn2")
        return self.add(x, y, strides, name)

    def bottleneck(self, x, width, channels, strides, groups, style, name):
        first, second = (strides, 1) if style == "caffe" else (1, strides)
        y = self.conv(x, width, 1, first, f"{name}conv1")
        y = self.relu(self.norm(y, f"{name}bn1"), f"{name}relu1")
        y = self.conv(y, width, 3, second, f"{name}conv2", groups, self.deformable)
        y = self.relu(self.norm(y, f"{name}bn2"), f"{name}relu2")
        y = self.norm(self.conv(y, channels, 1, 1, f"{name}conv3"), f"{name}bn3")
        return self.add(x, y, strides, name)

    def add(self, x, y, strides, name):
        """Adds the shortcut, a strided 1x1 convolution where the channels change."""
        if x.shape[-1] != y.shape[-1]:
            x = self.conv(x, y.shape[-1], 1, strides, f"{name}downsample_conv")
            x = self.norm(x, f"{name}downsample_bn")
        y = layers.Add(name=f"{name}add", dtype=self.dtype)([y, x])
        return self.relu(y, f"{name}relu")

    def conv(self, x, filters, size, strides, name, groups=1, deformable=False):
        arguments = {
            "strides": strides,
            "groups": groups,
            "use_bias": False,
            "kernel_initializer": keras.initializers.VarianceScaling(2.0, "fan_out"),
            "trainable": self.trainable,
            "name": name,
            "dtype": self.dtype,
        }
        if deformable:
            return ModulatedDeformConv2D(filters, size, **arguments)(x)
        padding = "same" if strides == 1 else "valid"
        if padding == "valid" and size > 1:
            x = layers.ZeroPadding2D(size // 2, LAST, name=f"{name}_pad", dtype=self.dtype)(x)
        conv = GroupedConv2D if groups > 1 else layers.Conv2D
        return conv(filters, size, padding=padding, data_format=LAST, **arguments)(x)

    def norm(self, x, name):
        if self.batch_norm == "train":
            return layers.BatchNormalization(
                momentum=0.9, epsilon=EPSILON, name=name, dtype=self.dtype
            )(x)
        return FrozenBatchNormalization(
            self.batch_norm == "affine", EPSILON, name=name, dtype=self.dtype
        )(x)

    def relu(self, x, name):
        return layers.ReLU(name=name, dtype=self.dtype)(x)
