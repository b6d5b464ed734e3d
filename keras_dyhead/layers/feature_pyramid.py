"""The feature pyramid network (FPN) between a backbone and DyHead."""

import keras
from keras import ops

from keras_dyhead.layers.pyramid_layer import PyramidLayer, check_halving, check_maps
from keras_dyhead.ops.arguments import check_choice, whole_number

EXTRA_LEVELS = ("on_input", "on_output", "pool")


@keras.saving.register_keras_serializable(package="keras_dyhead")
class FeaturePyramid(PyramidLayer):
    """Merges backbone maps top-down into a pyramid of maps with equal channels.

    Each backbone map passes a 1x1 *lateral* convolution. Coarser maps are upsampled by nearest
    neighbor to the exact size of the next finer map and added to it. A 3x3 *output* convolution
    completes each level. Stride-2 steps produce the levels above the coarsest backbone map.

    Args:
        channels: int. Channels of every output map. Defaults to 256.
        min_level: int. Finest level to produce; level `l` has stride `2**l`. Defaults to 3.
        max_level: int. Coarsest level to produce. Defaults to 7.
        extra_levels: How to create the levels above the backbone's coarsest map `C`: `"on_output"`
            (3x3 stride-2 convolutions of the pyramid's map of that level, as in the published ATSS
            and RetinaNet with DyHead), `"on_input"` (3x3 stride-2 convolutions of `C` itself, as in
            the original RetinaNet) or `"pool"` (every second pixel, without weights, as in Faster
            R-CNN). Defaults to `"on_output"`.
        relu_before_extra_convs: bool. Apply a ReLU before every extra convolution except the first
            (P7 = conv(relu(P6))), as microsoft/DynamicHead and FCOS do. Defaults to `False`.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Dict `{"P3": (B, H, W, C3), "P4": ..., ...}` of backbone maps, such as the
            `pyramid_outputs` of a KerasHub backbone. Levels outside `min_level..max_level` are
            ignored. Or a list of maps that starts at `min_level`. Each map is half the size of the
            previous one, rounded up.

    Returns:
        Dict `{"P3": (B, H, W, channels), ...}` from `min_level` to `max_level`; a list for a list.

    Raises:
        ValueError: If an argument is out of range, if the inputs lack a level from `min_level` to
            their coarsest one, or if their sizes do not halve.

    Example:
    ```python
    maps = {"P3": keras.ops.ones((1, 25, 34, 32)), "P4": keras.ops.ones((1, 13, 17, 64))}
    pyramid = FeaturePyramid(channels=16, max_level=6)(maps)
    print({level: tuple(x.shape) for level, x in pyramid.items()})
    # {'P3': (1, 25, 34, 16), 'P4': (1, 13, 17, 16), 'P5': (1, 7, 9, 16), 'P6': (1, 4, 5, 16)}
    ```

    Source: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017
    (https://arxiv.org/abs/1612.03144).
    """

    def __init__(
        self,
        channels: int = 256,
        min_level: int = 3,
        max_level: int = 7,
        extra_levels: str = "on_output",
        relu_before_extra_convs: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.channels = whole_number(channels, "channels")
        self.min_level = whole_number(min_level, "min_level", smallest=0)
        self.max_level = whole_number(max_level, "max_level", smallest=0)
        if min_level > max_level:
            raise ValueError(
                "Levels must satisfy min_level <= max_level. "
                f"Received: min_level={min_level}, max_level={max_level}"
            )
        check_choice("extra_levels", extra_levels, EXTRA_LEVELS)
        self.extra_levels = extra_levels
        self.relu_before_extra_convs = relu_before_extra_convs

    def build(self, input_shape):
        shapes = self.check_levels(input_shape)
        self.lateral_convs = {level: self._conv(1, f"lateral_{level}") for level in shapes}
        self.output_convs = {level: self._conv(3, f"output_{level}") for level in shapes}
        for level, shape in shapes.items():
            self.lateral_convs[level].build(shape)
            self.output_convs[level].build((*shape[:-1], self.channels))
        self.extra_convs = {}
        if self.extra_levels != "pool":
            channels = self.channels if self.extra_levels == "on_output" else shape[-1]
            for number in range(int(level[1:]) + 1, self.max_level + 1):
                conv = self._conv(3, f"output_P{number}", strides=2)
                conv.build((None, None, None, channels))
                self.extra_convs[f"P{number}"] = conv
                channels = self.channels
        self.built = True

    def call(self, inputs):
        maps = self._as_levels(inputs)
        maps = {level: ops.cast(x, self.compute_dtype) for level, x in maps.items()}
        merged, coarser = {}, None
        for level in reversed(maps):
            x = self.lateral_convs[level](maps[level])
            if coarser is not None:
                x = x + _upsample_to(coarser, x)
            merged[level] = coarser = x
        pyramid = {level: self.output_convs[level](merged[level]) for level in maps}

        coarsest = list(maps)[-1]
        x = maps[coarsest] if self.extra_levels == "on_input" else pyramid[coarsest]
        for number in range(int(coarsest[1:]) + 1, self.max_level + 1):
            level = f"P{number}"
            if self.extra_levels == "pool":
                x = x[:, ::2, ::2]
            else:
                # "same" would pad even sizes only at the bottom and right.
                x = self.extra_convs[level](ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))
            pyramid[level] = x
            if self.relu_before_extra_convs:
                x = ops.relu(x)
        return pyramid if isinstance(inputs, dict) else list(pyramid.values())

    def compute_output_shape(self, input_shape):
        shapes = self.check_levels(input_shape)
        (batch, *size, _), last = list(shapes.values())[-1], int(list(shapes)[-1][1:])
        shapes = {level: (*shape[:-1], self.channels) for level, shape in shapes.items()}
        for number in range(last + 1, self.max_level + 1):
            size = [side and -(-side // 2) for side in size]
            shapes[f"P{number}"] = (batch, *size, self.channels)
        return shapes if isinstance(input_shape, dict) else list(shapes.values())

    def get_config(self):
        return super().get_config() | {
            "channels": self.channels,
            "min_level": self.min_level,
            "max_level": self.max_level,
            "extra_levels": self.extra_levels,
            "relu_before_extra_convs": self.relu_before_extra_convs,
        }

    def _conv(self, kernel_size, name, strides=1):
        return keras.layers.Conv2D(
            self.channels,
            kernel_size,
            strides=strides,
            padding="same" if strides == 1 else "valid",
            data_format="channels_last",
            name=name,
            dtype=self.dtype_policy,
        )

    def check_levels(self, shapes):
        check_maps(shapes)
        levels = self._as_levels(shapes)
        check_halving(levels, round_down=False)
        channels = {level: shape[-1] for level, shape in levels.items()}
        convs = self.lateral_convs.items() if self.built else ()
        built_for = {level: conv.kernel.shape[2] for level, conv in convs}
        if self.built and channels != built_for:
            raise ValueError(
                f"The layer was built for levels with channels {built_for}. "
                f"Received: shapes {levels}"
            )
        return levels

    def _as_levels(self, inputs):
        """Names the maps of a list by level, and drops levels outside `min_level..max_level`."""
        if not isinstance(inputs, dict):
            inputs = {f"P{self.min_level + i}": x for i, x in enumerate(inputs)}
        wanted = [f"P{number}" for number in range(self.min_level, self.max_level + 1)]
        present = [level for level in wanted if level in inputs]
        if not present or present != wanted[: len(present)]:
            raise ValueError(
                f"`inputs` must contain consecutive levels from P{self.min_level} on. "
                f"Received levels: {list(inputs)}"
            )
        return {level: inputs[level] for level in present}


def _upsample_to(coarser, finer):
    """Doubles `coarser` (nearest neighbor) and crops it to the size of `finer`."""
    for axis in (1, 2):
        if keras.backend.backend() == "torch":
            # Keras' `repeat` reads values, which symbolic tensors lack. To infer shapes, Keras
            # would then compute the maps of 89 images.
            coarser = coarser.repeat_interleave(2, axis)
        else:
            coarser = ops.repeat(coarser, 2, axis=axis)
    height, width = ops.shape(finer)[1:3]
    return coarser[:, :height, :width]
