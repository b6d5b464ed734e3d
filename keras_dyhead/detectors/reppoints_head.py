"""The head that predicts classes and points on every pyramid level."""

import keras
import numpy as np
from keras import ops

from keras_dyhead.detectors.conv_tower import apply_tower, conv_tower, head_conv, prior_bias
from keras_dyhead.detectors.locations import stack_sizes
from keras_dyhead.layers.frozen import CompositeLayer
from keras_dyhead.layers.full_precision import FullPrecisionDense
from keras_dyhead.ops.arguments import at_least_float32, whole_number
from keras_dyhead.ops.deform_conv import deform_conv_rows
from keras_dyhead.ops.rows import MapRows
from keras_dyhead.ops.sampling_grid import concatenate_grids, sampling_grid

NUM_POINTS = 9  # as many as the taps of a 3x3 kernel
OFFSET_GRADIENT = 0.1  # factor of the gradient from sampling positions to initial points
MOMENT_GRADIENT = 0.01  # factor of the gradient to the two learned factors
TAPS = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"), -1).ravel().astype("float32")


@keras.saving.register_keras_serializable(package="keras_dyhead")
class RepPointsHead(CompositeLayer):
    """Predicts nine points per location, samples the map there, and predicts classes and points.

    On every level, with the same weights, a 3x3 convolution predicts initial points. Two deformable
    convolutions sample the map at these points, to predict classes and to refine the points. A box
    extends from the mean of the points by their standard deviation times two learned factors, for x
    and y ("moment"). Points and boxes are float32 under every policy.

    Arguments are as in `RepPoints`, and the pyramid and `"level_sizes"` as in `PredictionHead`.

    Returns:
        Dict, float32, flat over level, row and column: `"class_logits"` `(B, A, K)`;
        `"initial_points"` and `"refined_points"` `(B, A, 18)`, nine pairs of y and x;
        `"initial_boxes"` and `"refined_boxes"` `(B, A, 4)`, xyxy; points and boxes in strides
        relative to the location; and `"level_sizes"`.

    Source: Yang et al., "RepPoints: Point Set Representation for Object Detection", ICCV 2019,
    figure 2; `RepPointsHead` of OpenMMLab's mmdetection.
    """

    def __init__(
        self,
        num_classes: int,
        head_layers: int = 0,
        use_group_norm: bool = False,
        initial_spread: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_classes = whole_number(num_classes, "num_classes")
        self.head_layers = head_layers
        self.use_group_norm = use_group_norm
        self.initial_spread = initial_spread
        self.initial_points = self._points("initial_points", start=initial_spread)
        self.refined_points = self._points("refined_points")
        self.class_logits = keras.layers.Dense(
            num_classes,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            bias_initializer=prior_bias(),
            name="class_logits",
            dtype=self.dtype_policy,
        )

    def _points(self, name, start=0.0):
        return FullPrecisionDense(
            2 * NUM_POINTS,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            bias_initializer=keras.initializers.Constant(start * TAPS),
            name=name,
            dtype=self.compute_dtype,
        )

    def build(self, input_shape):
        channels = next(iter(input_shape.values()))[-1]
        self.class_tower, self.point_tower = (
            conv_tower(branch, self.head_layers, channels, self.use_group_norm, self.dtype_policy)
            for branch in ("class", "point")
        )
        self.initial_conv = head_conv(channels, 3, "initial_conv", self.dtype_policy)
        self.initial_conv.build((None, None, None, channels))
        self.class_kernel, self.refining_kernel = (
            self.add_weight(
                shape=(3, 3, channels, channels), initializer="he_uniform", name=f"{name}_kernel"
            )
            for name in ("class", "refining")
        )
        for layer in (self.initial_points, self.refined_points, self.class_logits):
            layer.build((None, None, channels))
        self.moment_transfer = self.add_weight(
            shape=(2,),
            initializer="zeros",
            dtype=at_least_float32(self.compute_dtype),
            autocast=False,
            name="moment_transfer",
        )
        self.built = True

    def call(self, pyramid):
        maps = list(pyramid.values())
        class_maps = [apply_tower(self.class_tower, x) for x in maps]
        point_maps = [apply_tower(self.point_tower, x) for x in maps]
        initial = MapRows([ops.relu(self.initial_conv(x)) for x in point_maps])
        initial_points = ops.cast(self.initial_points(initial.values), "float32")

        grids = [
            sampling_grid(size, size, start=start)
            for size, start in zip(initial.sizes, initial.starts, strict=True)
        ]
        grid = concatenate_grids(grids)
        # Each kernel tap samples its point instead of its own position.
        offsets = ops.subtract(scale_gradient(initial_points, OFFSET_GRADIENT), TAPS)

        def sample(maps, kernel):
            return ops.relu(deform_conv_rows(MapRows(maps).values, grid, offsets, None, kernel))

        if self.head_layers:
            class_features = sample(class_maps, self.class_kernel)
            point_features = sample(point_maps, self.refining_kernel)
        else:  # the maps are the same, so sample once for both
            kernels = ops.concatenate([self.class_kernel, self.refining_kernel], axis=-1)
            class_features, point_features = ops.split(sample(maps, kernels), 2, axis=-1)
        refinement = ops.cast(self.refined_points(point_features), "float32")
        refined_points = ops.stop_gradient(initial_points) + refinement
        transfer = ops.cast(self.moment_transfer, "float32")
        transfer = scale_gradient(transfer, MOMENT_GRADIENT)
        return {
            "class_logits": ops.cast(self.class_logits(class_features), "float32"),
            "initial_points": initial_points,
            "refined_points": refined_points,
            "initial_boxes": moment_boxes(initial_points, transfer),
            "refined_boxes": moment_boxes(refined_points, transfer),
            "level_sizes": stack_sizes(initial.sizes),
        }

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "head_layers": self.head_layers,
            "use_group_norm": self.use_group_norm,
            "initial_spread": self.initial_spread,
        }


def moment_boxes(points, transfer):
    """Returns xyxy boxes: the mean of points, plus and minus multiples of their standard deviation.

    The points are `(..., 18)`, nine pairs of y and x. `transfer` holds the logarithms of the
    multiples of the sample standard deviation (divided by n - 1) in x and y.
    """
    axes, ends = (points[..., 1::2], points[..., ::2]), []
    for coordinates, log_factor in zip(axes, ops.unstack(transfer), strict=True):
        mean = ops.mean(coordinates, axis=-1, keepdims=True)
        variance = ops.sum(ops.square(coordinates - mean), axis=-1) / (NUM_POINTS - 1)
        # If all points coincide, the square root has no derivative at zero.
        half = ops.sqrt(ops.maximum(variance, 1e-12)) * ops.exp(log_factor)
        ends.append((mean[..., 0] - half, mean[..., 0] + half))
    (left, right), (top, bottom) = ends
    return ops.stack([left, top, right, bottom], axis=-1)


def scale_gradient(values, factor):
    """Returns the values unchanged, and multiplies their gradient by a factor."""
    return (1 - factor) * ops.stop_gradient(values) + factor * values
