"""RetinaNet with DyHead."""

import keras
from keras import ops

from keras_dyhead.detectors.anchors import AnchorGenerator
from keras_dyhead.detectors.assigners import IGNORED, MaxIoUAssigner
from keras_dyhead.detectors.decoding import DetectionDecoder
from keras_dyhead.detectors.detector import Detector, backbone_pyramid
from keras_dyhead.detectors.losses import sigmoid_focal_loss, smooth_l1_loss, sum_over_replicas
from keras_dyhead.detectors.prediction_head import PredictionHead
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.layers.dyhead_neck import DyHeadNeck
from keras_dyhead.layers.feature_pyramid import FeaturePyramid
from keras_dyhead.ops.boxes import decode_boxes, encode_boxes, take_per_image


@keras.saving.register_keras_serializable(package="keras_dyhead")
class RetinaNet(Detector):
    """Anchor-based dense detector: backbone, feature pyramid, DyHead, shared prediction head.

    Args:
        backbone: A KerasHub `FeaturePyramidBackbone` (anything with `pyramid_outputs`), or a
            model or layer that maps images to a dict `{"P3": C3, ...}` of maps.
        num_classes: int. Number of classes K; labels run from 0 to K - 1.
        num_blocks: int. DyHead blocks; 0 is the detector without DyHead. Defaults to 6.
        channels: int. Channels of pyramid, DyHead and head; a multiple of 16. Defaults to 256.
        alignment: `"paper"` or `"published"`, as in `DyHeadNeck`. Defaults to `"paper"`.
        image_shape: Shape of a preprocessed image. A known height and width give XLA static
            shapes. Defaults to `(None, None, 3)`.
        min_level: int. Finest pyramid level. Defaults to 3.
        max_level: int. Coarsest pyramid level. Defaults to 7.
        extra_levels: Where levels above the backbone come from, as in `FeaturePyramid`. Defaults
            to `"on_output"`.
        relu_before_extra_convs: bool. As in `FeaturePyramid`. Defaults to `False`.
        head_convs: int. 3x3 convolutions before each prediction, after DyHead. Defaults to 4
            as published; 0 predicts straight from DyHead.
        anchors: `AnchorGenerator`. Defaults to `AnchorGenerator()`: 3 sizes x 3 ratios.
        assigner: Defaults to `MaxIoUAssigner()`.
        decoder: Defaults to `DetectionDecoder()`.
        preprocessor: Defaults to a `DetectionPreprocessor` for `image_shape`.
        box_weights: Four floats that scale the box deltas. Defaults to ones.
        smooth_l1_beta: float. 0 is the L1 loss. Defaults to 0.0.
        dtype: Policy of the layers above the backbone. Defaults to the global policy.
        **kwargs: `name` and `trainable`.

    Example:
    ```python
    backbone = keras_hub.models.ResNetBackbone(
        [64], [7], [64, 128, 256, 512], [2, 2, 2, 2], [1, 2, 2, 2], "basic_block"
    )
    model = RetinaNet(backbone, num_classes=80, num_blocks=1, channels=64)
    model.compile()
    images = np.zeros((1, 128, 128, 3), "float32")
    targets = {"boxes": np.array([[[8.0, 8, 70, 60]]]), "labels": np.array([[3]])}
    model.fit(images, targets)
    detections = model.predict(images)  # {"boxes": (1, 100, 4), "labels": (1, 100), ...}
    ```

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017; with DyHead, the
    configuration `dyhead_r50_retina_fpn_1x` of microsoft/DynamicHead. Losses are divided by
    the number of positive anchors, where an image without any counts as one.
    """

    def __init__(
        self,
        backbone,
        num_classes: int,
        num_blocks: int = 6,
        channels: int = 256,
        alignment: str = "paper",
        image_shape=(None, None, 3),
        min_level: int = 3,
        max_level: int = 7,
        extra_levels: str = "on_output",
        relu_before_extra_convs: bool = False,
        head_convs: int = 4,
        anchors: AnchorGenerator | None = None,
        assigner: MaxIoUAssigner | None = None,
        decoder: DetectionDecoder | None = None,
        preprocessor: DetectionPreprocessor | None = None,
        box_weights=(1.0, 1.0, 1.0, 1.0),
        smooth_l1_beta: float = 0.0,
        dtype=None,
        **kwargs,
    ):
        dtype = keras.dtype_policies.get(dtype)
        image_shape = tuple(image_shape)
        anchors = anchors or AnchorGenerator()

        images = keras.Input(image_shape, name="images")
        pyramid = FeaturePyramid(
            channels,
            min_level,
            max_level,
            extra_levels,
            relu_before_extra_convs,
            dtype=dtype,
            name="feature_pyramid",
        )(backbone_pyramid(backbone, min_level, max_level)(images))
        if num_blocks:
            pyramid = DyHeadNeck(num_blocks, channels, alignment, dtype=dtype, name="dyhead")(
                pyramid
            )
        raw = PredictionHead(
            num_classes, anchors.per_cell, head_convs, channels, dtype=dtype, name="head"
        )(pyramid)
        super().__init__(inputs=images, outputs=raw, **kwargs)

        self.backbone = backbone
        self.num_classes = num_classes
        self.num_blocks = num_blocks
        self.channels = channels
        self.alignment = alignment
        self.image_shape = image_shape
        self.min_level = min_level
        self.max_level = max_level
        self.extra_levels = extra_levels
        self.relu_before_extra_convs = relu_before_extra_convs
        self.head_convs = head_convs
        self.anchors = anchors
        self.assigner = assigner or MaxIoUAssigner()
        self.decoder = decoder or DetectionDecoder()
        self.preprocessor = preprocessor or DetectionPreprocessor.for_shape(image_shape, max_level)
        self.box_weights = tuple(box_weights)
        self.smooth_l1_beta = smooth_l1_beta
        self.dtype_policy = dtype
        self.locations_per_cell = anchors.per_cell

    def compute_losses(self, raw, boxes, labels):
        """Returns the focal loss of the classes and the L1 loss of the box deltas."""
        anchors = self.anchors(self.level_sizes(raw), self.min_level)
        assigned = self.assigner(anchors, boxes, labels)
        positive, counted = assigned >= 0, assigned != IGNORED
        positives = ops.sum(ops.cast(positive, "float32"), axis=1)
        normalizer = sum_over_replicas(ops.sum(ops.maximum(positives, 1.0)))

        objects = ops.maximum(assigned, 0)
        classes = ops.where(positive, take_per_image(labels, objects), -1)
        class_targets = ops.one_hot(classes, self.num_classes)  # -1 is all zeros: background
        class_loss = sigmoid_focal_loss(class_targets, raw["class_logits"])
        # Other anchors get themselves as target, for which the deltas are finite.
        box_targets = ops.where(positive[..., None], take_per_image(boxes, objects), anchors)
        box_targets = encode_boxes(box_targets, anchors, self.box_weights)
        box_loss = smooth_l1_loss(box_targets, raw["box_deltas"], self.smooth_l1_beta)
        return {
            "class_loss": ops.sum(ops.where(counted[..., None], class_loss, 0.0)) / normalizer,
            "box_loss": ops.sum(ops.where(positive[..., None], box_loss, 0.0)) / normalizer,
        }

    def decode(self, raw, image_sizes=None):
        """Turns raw outputs into detections; see `Detector.decode`."""
        level_sizes = self.level_sizes(raw, image_sizes)
        anchors = self.anchors(level_sizes, self.min_level)
        boxes = decode_boxes(raw["box_deltas"], anchors, self.box_weights)
        counts = [height * width * self.anchors.per_cell for height, width in level_sizes]
        return self.decoder(raw["class_logits"], boxes, counts, image_sizes)
