"""DyHead inside KerasCV's detectors (needs `pip install '.[kerascv]'`).

RetinaNet accepts DyHead as its feature pyramid: `DyHeadFeaturePyramid`. In YOLOV8, DyHead goes
between path-aggregation pyramid and head: `DyHeadYOLOV8Detector`.

Notes on KerasCV 0.9.0, its last release:

- Saving. `RetinaNet.get_config` omits `feature_pyramid`, so saved files could not be loaded.
  Importing this module fixes `RetinaNet` for the pyramid defined here, and for no other. Import it
  before `keras.models.load_model`, too. The arguments of `compile` are not restored (Keras warns):
  compile a loaded model before `fit` or `evaluate`.
- Mixed precision. KerasCV's box arithmetic follows the global policy. In bfloat16, `predict` of
  RetinaNet and all of YOLOV8 fail, and RetinaNet's targets are rounded to 8 bits. In the detectors
  here, outputs, assignment, decoding and non-maximum suppression are float32 under every policy.
  KerasCV does not save policies: set the global policy again before loading.
- XLA. `jit_compile=True` works for `fit`, `evaluate` and `predict` of both detectors.
- Image sizes. A compiled model trains and predicts at one image size, because KerasCV computes
  anchors from static shapes. Compile again to change it. YOLOV8 needs multiples of 32.
"""

import contextlib
import functools

import keras
from keras.saving import deserialize_keras_object, serialize_keras_object

from keras_dyhead.detectors.detector import as_neck
from keras_dyhead.layers import FeaturePyramid
from keras_dyhead.layers.frozen import (
    CompositeLayer,
    freeze_layers,
    frozen_layers,
    with_frozen_layers,
)
from keras_dyhead.layers.pyramid_layer import listed

try:
    import keras_cv
except ImportError as error:
    raise ImportError(
        "keras_dyhead.integrations.keras_cv needs KerasCV. "
        "Install it with `pip install '.[kerascv]'` in a clone."
    ) from error

__all__ = ["DyHeadFeaturePyramid", "DyHeadYOLOV8Detector", "to_keras_cv"]


def to_keras_cv(data):
    """Renames `"labels"` to KerasCV's `"classes"` in targets or in a dataset.

    Args:
        data: A dict `{"boxes": (B, N, 4), "labels": (B, N), ...}`, or a `tf.data.Dataset` (anything
            with `map`) of `(images, dict)`, such as `keras_dyhead.coco.load_coco` returns. Boxes
            and padding (-1) stay the same: build the detector with `bounding_box_format="xyxy"`.

    Returns:
        The same data with the key renamed. An input dict is not modified.

    Raises:
        ValueError: If a dict does not have the key `"labels"`.

    Example:

    >>> sorted(to_keras_cv({"boxes": [[[0.0, 0.0, 8.0, 8.0]]], "labels": [[1]]}))
    ['boxes', 'classes']
    """
    if isinstance(data, dict):
        if "labels" not in data:
            raise ValueError(f"Targets must have the key 'labels'. Received keys: {list(data)}")
        return {"classes" if key == "labels" else key: value for key, value in data.items()}
    return data.map(lambda images, targets, *rest: (images, to_keras_cv(targets), *rest))


@keras.saving.register_keras_serializable(package="keras_dyhead")
class DyHeadFeaturePyramid(CompositeLayer):
    """FPN followed by DyHead, in the form that KerasCV's RetinaNet expects.

    Args:
        neck: Layer that refines a pyramid, such as a `DyHeadNeck`, or `None` to leave it unchanged.
            Defaults to `"dyhead"`: a `DyHeadNeck` with the pyramid's channels.
        feature_pyramid: Layer that turns backbone maps into a pyramid (dict or list). Defaults to
            `keras_dyhead.layers.FeaturePyramid`, P3..P7, with the neck's channels. Pass the
            `feature_pyramid` of a trained KerasCV RetinaNet to keep its weights.
        **kwargs: Keyword arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Dict `{"P3": (B, H, W, C3), "P4": ..., "P5": ...}` of backbone maps.

    Returns:
        List of maps `(B, H_l, W_l, C)`, fine to coarse; P3..P7 by default.

    Example:

    >>> maps = {f"P{i}": keras.ops.ones((1, 2 ** (8 - i), 2 ** (8 - i), 24)) for i in (3, 4, 5)}
    >>> [tuple(x.shape) for x in DyHeadFeaturePyramid(DyHeadNeck(1, channels=16))(maps)]
    [(1, 32, 32, 16), (1, 16, 16, 16), (1, 8, 8, 16), (1, 4, 4, 16), (1, 2, 2, 16)]
    """

    def __init__(
        self,
        neck: keras.layers.Layer | str | None = "dyhead",
        feature_pyramid: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.neck = as_neck(neck, feature_pyramid, dtype=self.dtype_policy)
        self.feature_pyramid = feature_pyramid or FeaturePyramid(
            getattr(self.neck, "channels", 256), dtype=self.dtype_policy, name="fpn"
        )

    def build(self, input_shape):
        if not self.feature_pyramid.built:
            self.feature_pyramid.build(input_shape)
        if self.neck is not None and not self.neck.built:
            self.neck.build(self._pyramid_shapes(input_shape))
        self.built = True

    def call(self, inputs):
        pyramid = listed(self.feature_pyramid(inputs))
        return pyramid if self.neck is None else self.neck(pyramid)

    def compute_output_shape(self, input_shape):
        shapes = self._pyramid_shapes(input_shape)
        return shapes if self.neck is None else self.neck.compute_output_shape(shapes)

    def _pyramid_shapes(self, input_shape):
        maps = {level: keras.KerasTensor(shape) for level, shape in input_shape.items()}
        return [x.shape for x in listed(self.feature_pyramid.compute_output_spec(maps))]

    def get_config(self):
        return {
            **super().get_config(),
            "neck": serialize_keras_object(self.neck),
            "feature_pyramid": serialize_keras_object(self.feature_pyramid),
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialize_keras_object(config))


@keras.saving.register_keras_serializable(package="keras_dyhead")
class DyHeadYOLOV8Detector(keras_cv.models.YOLOV8Detector):
    """KerasCV's YOLOV8 detector with DyHead between its path-aggregation pyramid and its head.

    Levels of the pyramid differ in channels. Each is projected to the neck's channels, refined by
    DyHead, and projected back. Backbone, pyramid and head are exactly those of
    `keras_cv.models.YOLOV8Detector`, so weights published for it fit:

    - a whole detector: load it as a plain `YOLOV8Detector` and pass it to `from_detector`;
    - a backbone: `DyHeadYOLOV8Detector.from_preset("yolo_v8_m_backbone_coco", num_classes=20,
      bounding_box_format="xyxy")`;
    - a `.weights.h5` file of a plain detector: `model.load_weights(path, skip_mismatch=True)`,
      which warns about DyHead's layers and loads all others.

    Args:
        backbone: As in `keras_cv.models.YOLOV8Detector`, like the next five arguments.
        num_classes: Number of classes.
        bounding_box_format: Format of targets and detections; `"xyxy"` for this package's datasets.
        fpn_depth: Depth of the pyramid's blocks. Defaults to 2.
        label_encoder: Defaults to KerasCV's.
        prediction_decoder: Defaults to KerasCV's.
        neck: Layer that refines a pyramid, such as `DyHeadNeck`, or `None` for the plain detector.
            Defaults to `"dyhead"`: `DyHeadNeck()`.
        residual: Whether to add DyHead's output to the pyramid instead of replacing it. The
            projection back then starts at zero: before training, the detector predicts exactly what
            the plain one does. Not in the paper; meant for trained weights. Defaults to `False`.
        **kwargs: Keyword arguments of `keras.Model`.

    Example:

    >>> backbone = keras_cv.models.YOLOV8Backbone(
    ...     [16, 32, 48, 64], [1, 1, 1, 1], include_rescaling=True, input_shape=(64, 64, 3))
    >>> neck = DyHeadNeck(1, channels=16)
    >>> model = DyHeadYOLOV8Detector(backbone, 2, "xyxy", fpn_depth=1, neck=neck)
    >>> model.predict(np.zeros((1, 64, 64, 3)), verbose=0)["boxes"].shape
    (1, 100, 4)
    """

    def __init__(
        self,
        backbone,
        num_classes: int,
        bounding_box_format: str,
        fpn_depth: int = 2,
        label_encoder=None,
        prediction_decoder=None,
        neck: keras.layers.Layer | str | None = "dyhead",
        residual: bool = False,
        **kwargs,
    ):
        plain = keras_cv.models.YOLOV8Detector(
            backbone, num_classes, bounding_box_format, fpn_depth, label_encoder, prediction_decoder
        )
        outputs = map(plain.get_layer, ("box", "class"))
        _keep_float32(plain.label_encoder, plain.prediction_decoder, *outputs)
        neck, outputs = as_neck(neck), plain.output
        if neck is not None:
            # The head, cut off from the pyramid, is applied to the outputs of DyHead.
            pyramid = [plain.get_layer(f"yolo_v8_head_{i}_box_1_pad").input for i in (1, 2, 3)]
            between = _DyHeadBetween(neck, residual, name="dyhead_between")
            outputs = keras.Model(pyramid, outputs).call(between(pyramid))
        # Skips YOLOV8Detector.__init__, which would build its own graph.
        super(keras_cv.models.YOLOV8Detector, self).__init__(plain.input, outputs, **kwargs)
        for name in (
            *("backbone", "num_classes", "bounding_box_format"),
            *("fpn_depth", "label_encoder", "_prediction_decoder"),
        ):
            setattr(self, name, getattr(plain, name))
        self.neck = neck
        self.residual = residual

    @classmethod
    def from_detector(
        cls, detector: keras_cv.models.YOLOV8Detector, neck="dyhead", residual: bool = False
    ):
        """Adds DyHead to a (trained) plain detector and copies all its weights.

        Args:
            detector: A `keras_cv.models.YOLOV8Detector`, for example from `from_preset` or filled
                by `load_weights`. It is not modified.
            neck: As in `DyHeadYOLOV8Detector`. Defaults to `"dyhead"`.
            residual: As in `DyHeadYOLOV8Detector`. Defaults to `False`.

        Returns:
            A `DyHeadYOLOV8Detector`. Only DyHead and the projections around it have new weights.

        Raises:
            TypeError: If `detector` is not a `YOLOV8Detector`.
        """
        if not isinstance(detector, keras_cv.models.YOLOV8Detector):
            raise TypeError(
                f"`detector` must be a keras_cv.models.YOLOV8Detector. Received: {type(detector)}"
            )
        arguments = deserialize_keras_object(detector.get_config())
        model = cls(**arguments, neck=neck, residual=residual)
        weights = {weight.path: weight for weight in model.weights}
        for weight in detector.weights:
            weights[weight.path].assign(weight)
        return model

    def compute_loss(self, *args, **kwargs):
        with _float32_policy():
            return super().compute_loss(*args, **kwargs)

    def decode_predictions(self, pred, images):
        with _float32_policy():
            return super().decode_predictions(pred, images)

    def get_config(self):
        return {
            **super().get_config(),
            "neck": serialize_keras_object(self.neck),
            "residual": self.residual,
            "frozen": frozen_layers(self),
        }

    @classmethod
    def from_config(cls, config):
        return with_frozen_layers(cls, deserialize_keras_object(config))


class _DyHeadBetween(keras.layers.Layer):
    """Projects pyramid levels to DyHead's channels, refines them and projects them back."""

    def __init__(self, neck, residual, **kwargs):
        super().__init__(**kwargs)
        self.neck = neck
        self.residual = residual

    def build(self, input_shape):
        if not self.neck.built:
            self.neck.build(input_shape)
        refined = self.neck.compute_output_shape(input_shape)
        self.back = []
        for i, shape in enumerate(input_shape):
            kernel = "zeros" if self.residual else "glorot_uniform"
            conv = keras.layers.Conv2D(
                shape[-1],
                1,
                data_format="channels_last",
                kernel_initializer=kernel,
                dtype=self.dtype_policy,
                name=f"back_{i}",
            )
            conv.build(refined[i])
            self.back.append(conv)
        self.built = True

    def call(self, inputs):
        outputs = [conv(x) for conv, x in zip(self.back, self.neck(inputs), strict=True)]
        if self.residual:
            outputs = [x + y for x, y in zip(inputs, outputs, strict=True)]
        return outputs

    def compute_output_shape(self, input_shape):
        return input_shape


def _keep_float32(*layers):
    """Exempts box arithmetic from a global mixed-precision policy."""
    for layer in layers:
        layer.dtype_policy = "float32"


@contextlib.contextmanager
def _float32_policy():
    """Sets float32 while KerasCV's YOLOV8 computes losses or boxes, where it creates layers."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _complete_retinanet(retinanet):
    """Makes KerasCV's RetinaNet save our pyramid and keep box arithmetic in float32."""
    init, get_config = retinanet.__init__, retinanet.get_config
    from_config = retinanet.from_config.__func__

    @functools.wraps(init)
    def init_in_float32(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if isinstance(self.feature_pyramid, DyHeadFeaturePyramid):
            encoder, decoder = self.label_encoder, self.prediction_decoder
            outputs = map(self.get_layer, ("box", "classification"))
            _keep_float32(encoder, encoder.box_matcher, decoder, *outputs)

    @functools.wraps(get_config)
    def get_config_with_pyramid(self):
        config = get_config(self)
        if isinstance(self.feature_pyramid, DyHeadFeaturePyramid):
            config["feature_pyramid"] = serialize_keras_object(self.feature_pyramid)
            config["frozen"] = frozen_layers(self)
        return config

    @functools.wraps(from_config)
    def from_config_with_pyramid(cls, config):
        config = dict(config)
        frozen = config.pop("frozen", None)
        if isinstance(config.get("feature_pyramid"), dict):
            config["feature_pyramid"] = deserialize_keras_object(config["feature_pyramid"])
        model = from_config(cls, config)
        if frozen is not None:
            freeze_layers(model, frozen)
        return model

    retinanet.__init__ = init_in_float32
    retinanet.get_config = get_config_with_pyramid
    retinanet.from_config = classmethod(from_config_with_pyramid)


_complete_retinanet(keras_cv.models.RetinaNet)
