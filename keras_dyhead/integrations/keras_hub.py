"""DyHead inside KerasHub's RetinaNet: a backbone that ends in DyHead.

`DyHeadBackbone` wraps the detector's backbone, and `correct_retinanet` corrects the detector.

Notes on KerasHub 0.32:

- Prior probability. `RetinaNetObjectDetector` applies the bias meant for the classification logits,
  `-log((1 - p) / p)`, to the box head: every class starts at probability 0.5, and every box shifted
  and shrunk by `exp(-4.6)`. `correct_retinanet` fixes both.
- Saving. The arguments of `compile` are not restored (Keras warns): a loaded detector is compiled
  with KerasHub's defaults. Frozen layers of the backbone stay frozen. The two heads of the detector
  train again, because KerasHub does not save their `trainable`: freeze them again. Presets of whole
  detectors (`save_to_preset`) do not load, because KerasHub finds a task by the class of its
  backbone: use `.keras` files.
- Mixed precision. Pass the policy to the backbone, `RetinaNetBackbone(encoder, ...,
  dtype="mixed_bfloat16")`, to its encoder and to your neck. Files keep it. Under a *global* policy,
  KerasHub rounds outputs and targets to bfloat16, and `predict` fails, until you call
  `correct_retinanet` (again after `load_model`).
- XLA. `jit_compile=True` works for `fit`, `evaluate` and `predict`.
- Image sizes. A compiled detector trains and predicts at one image size, because KerasHub computes
  anchors from static shapes. Compile again to change it.
"""

import keras
import keras_hub
from keras.saving import deserialize_keras_object, serialize_keras_object

from keras_dyhead.detectors.conv_tower import prior_bias
from keras_dyhead.detectors.detector import as_neck
from keras_dyhead.layers.frozen import frozen_layers, with_frozen_layers

__all__ = ["DyHeadBackbone", "correct_retinanet"]


@keras.saving.register_keras_serializable(package="keras_dyhead")
class DyHeadBackbone(keras_hub.models.FeaturePyramidBackbone):
    """A KerasHub `RetinaNetBackbone` followed by DyHead.

    Pass it to `keras_hub.models.RetinaNetObjectDetector`, and the detector to `correct_retinanet`.

    Args:
        backbone: A `keras_hub.models.RetinaNetBackbone`, or any `FeaturePyramidBackbone` that
            returns its pyramid and has `min_level`, `max_level` and `image_shape`.
        neck: Layer that refines a pyramid, such as a `DyHeadNeck`, or `None` to leave it unchanged.
            Defaults to `"dyhead"`: `DyHeadNeck()` with the backbone's dtype policy.
        **kwargs: `name` and `trainable`.

    Call arguments:
        inputs: Preprocessed images `(B, H, W, 3)`.

    Returns:
        Dict `{"P3": (B, H / 8, W / 8, C), ...}` from `min_level` to `max_level`.

    Raises:
        TypeError: If `backbone` is not a `FeaturePyramidBackbone` with levels and image shape.

    Example:

    >>> encoder = keras_hub.models.ResNetBackbone(
    ...     [64], [7], [64, 64, 64, 64], [2, 2, 2, 2], [1, 2, 2, 2], "basic_block")
    >>> pyramid = keras_hub.models.RetinaNetBackbone(encoder, 3, 7, use_p5=True)
    >>> backbone = DyHeadBackbone(pyramid, neck=DyHeadNeck(num_blocks=1))
    >>> backbone.pyramid_outputs["P3"].shape
    (None, None, None, 256)
    """

    def __init__(
        self,
        backbone: keras_hub.models.FeaturePyramidBackbone,
        neck: keras.layers.Layer | str | None = "dyhead",
        **kwargs,
    ):
        if not isinstance(backbone, keras_hub.models.FeaturePyramidBackbone) or not all(
            hasattr(backbone, name) for name in ("min_level", "max_level", "image_shape")
        ):
            raise TypeError(
                "`backbone` must be a keras_hub.models.RetinaNetBackbone (which wraps an image "
                f"encoder such as ResNetBackbone). Received: {backbone}"
            )
        neck = as_neck(neck, dtype=backbone.dtype_policy)
        inputs = keras.layers.Input(backbone.image_shape, name="inputs")
        pyramid = backbone(inputs)
        if neck is not None:
            pyramid = neck(pyramid)
        super().__init__(inputs, pyramid, dtype=backbone.dtype_policy, **kwargs)
        self.backbone = backbone
        self.neck = neck
        self.image_shape = backbone.image_shape
        self.min_level = backbone.min_level
        self.max_level = backbone.max_level
        self.pyramid_outputs = pyramid

    def get_config(self):
        return {
            "backbone": serialize_keras_object(self.backbone),
            "neck": serialize_keras_object(self.neck),
            "name": self.name,
            "trainable": self.trainable,
            "frozen": frozen_layers(self),
        }

    @classmethod
    def from_config(cls, config):
        return with_frozen_layers(cls, deserialize_keras_object(config))


def correct_retinanet(
    detector: keras_hub.models.RetinaNetObjectDetector,
) -> keras_hub.models.RetinaNetObjectDetector:
    """Moves KerasHub's prior bias to the right head, and box arithmetic to float32.

    Call it once on a new detector. On a trained one it is harmless: biases that were trained or
    loaded do not change.

    Args:
        detector: A `keras_hub.models.RetinaNetObjectDetector`, with any backbone.

    Returns:
        The same detector: an initial probability of 0.01 for each class, box bias 0; outputs,
        anchor matching, decoding and non-maximum suppression in float32 under every dtype policy.

    Raises:
        TypeError: If `detector` is not a `RetinaNetObjectDetector`.

    Example:

    >>> encoder = keras_hub.models.ResNetBackbone(
    ...     [64], [7], [64, 64, 64, 64], [2, 2, 2, 2], [1, 2, 2, 2], "basic_block")
    >>> backbone = keras_hub.models.RetinaNetBackbone(encoder, 3, 7, use_p5=True)
    >>> detector = keras_hub.models.RetinaNetObjectDetector(backbone, 80, "xyxy")
    >>> detector = correct_retinanet(detector)
    >>> float(detector.classification_head.prediction_layer.bias[0])
    -4.595119953155518

    Source: Lin et al., "Focal Loss for Dense Object Detection" (ICCV 2017), section 3.3.
    """
    if not isinstance(detector, keras_hub.models.RetinaNetObjectDetector):
        raise TypeError(
            "`detector` must be a keras_hub.models.RetinaNetObjectDetector. "
            f"Received: {type(detector)}"
        )
    for head, start in ((detector.classification_head, prior_bias()), (detector.box_head, "zeros")):
        bias = head.prediction_layer.bias
        values = keras.ops.convert_to_numpy(bias)
        if values.min() == values.max():  # untrained: training makes entries differ
            bias.assign(keras.initializers.get(start)(bias.shape, bias.dtype))
    encoder = detector.label_encoder
    for layer in (
        *map(detector.get_layer, ("bbox_regression", "cls_logits")),
        *(encoder, encoder.box_matcher, encoder.anchor_generator),
        *(detector.anchor_generator, detector.prediction_decoder),
    ):
        layer.dtype_policy = "float32"
    return detector
