"""Faster R-CNN with DyHead."""

import functools

import keras
from keras import ops
from keras.saving import serialize_keras_object

from keras_dyhead.detectors.assigners import IGNORED, MaxIoUAssigner
from keras_dyhead.detectors.decoding import DetectionDecoder
from keras_dyhead.detectors.detector import Detector, as_neck
from keras_dyhead.detectors.locations import AnchorGenerator
from keras_dyhead.detectors.losses import smooth_l1_loss
from keras_dyhead.detectors.proposals import Proposals, ProposalSelector, RandomSampler
from keras_dyhead.detectors.region_pooler import RegionPooler
from keras_dyhead.detectors.replicas import sum_over_replicas
from keras_dyhead.detectors.two_stage_head import TwoStageHead
from keras_dyhead.layers.feature_pyramid import FeaturePyramid
from keras_dyhead.ops.arguments import check_choice
from keras_dyhead.ops.boxes import decode_boxes, encode_boxes, is_empty, take_per_image


@keras.saving.register_keras_serializable(package="keras_dyhead")
class FasterRCNN(Detector):
    """Two-stage detector: proposals from DyHead's maps, then a class and a box for each proposal.

    `model(images)` runs the first stage. Its raw outputs are the objectness and deltas of every
    anchor, and the maps to pool regions from. `decode` and `compute_losses` choose the regions,
    given the image sizes or the objects, and run the second stage on them. A region learns the
    object it overlaps most, or the background below an IoU of 0.5.

    The two reference implementations differ:

    | | microsoft/DynamicHead | OpenMMLab |
    |---|---|---|
    | `assigner` | default | `MaxIoUAssigner(0.7, 0.3, reassign=True, low_quality_iou=0.3)` |
    | `pooler.epsilon` | 1e-8 | 1e-6 / 4 |
    | `neck.use_bias` | `True` | `False` |

    Args:
        backbone: As in `Detector`.
        num_classes: int. Number of classes K; labels run from 0 to K - 1.
        neck: As in `Detector`. With `arrangement="paper"`, the default `DyHeadNeck` has no
            task-aware attention.
        pyramid: The `FeaturePyramid`. Defaults to P2 to P6 with the neck's channels, where P6 is
            every second pixel of P5.
        arrangement: `"released"`: all of DyHead before pooling, two fully connected layers after
            it. `"paper"` (figure 2(c)): scale- and spatial-aware attention before pooling,
            task-aware attention in place of each fully connected layer. Without DyHead, both are
            the same. Defaults to `"released"`, as in the published weights.
        head_layers: int. Layers between a region and its predictions. Defaults to 2.
        head_units: int. Units of these layers if they are fully connected. Defaults to 1024.
        anchors: `AnchorGenerator`. Defaults to a size of 8 strides in three ratios, at the corner
            of each cell.
        assigner: Assigns objects to anchors. Defaults to `MaxIoUAssigner(0.7, 0.3)`.
        sampler: Samples anchors for a training step. Defaults to `RandomSampler(256, 0.5)`.
        proposals: Defaults to `ProposalSelector()`.
        region_sampler: Samples proposals for a training step. Defaults to
            `RandomSampler(512, 0.25)`.
        pooler: Defaults to `RegionPooler()`.
        box_weights: Four floats that scale the box deltas of regions. Defaults to
            `(10, 10, 5, 5)`.
        smooth_l1_beta: float. 0 is the L1 loss. Defaults to 0.0.
        decoder: Defaults to `DetectionDecoder(max_candidates=4000)`.
        dtype: As in `Detector`, and for the head. Defaults to the global policy.
        **kwargs: `image_shape`, `preprocessor`, `class_names`, `name` and `trainable`, as in
            `Detector`.

    Raises:
        ValueError: If `arrangement` is neither of the two, or is `"paper"` and the neck has
            task-aware attention.

    Example:
    ```python
    model = FasterRCNN(ResNetBackbone(18), num_classes=80, neck=DyHeadNeck(1, channels=64))
    model.compile()  # then `fit` and `predict` as with `ATSS`
    ```

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015; Lin et al., "Feature Pyramid Networks for
    Object Detection", CVPR 2017; with DyHead, the configuration `dyhead_r50_rcnn_fpn_1x` of
    microsoft/DynamicHead, and for `arrangement="paper"` section 3.3 of its paper, which does not
    say how many task-aware attentions there are.
    """

    loss_names = ("class_loss", "box_loss", "objectness_loss", "proposal_loss")
    class_layers = ("class_logits", "box_deltas")
    region_assigner = MaxIoUAssigner(0.5, 0.5, low_quality_iou=None)

    def __init__(
        self,
        backbone,
        num_classes: int,
        neck: keras.layers.Layer | str | None = "dyhead",
        pyramid: FeaturePyramid | None = None,
        arrangement: str = "released",
        head_layers: int = 2,
        head_units: int = 1024,
        anchors: AnchorGenerator | None = None,
        assigner: MaxIoUAssigner | None = None,
        sampler: RandomSampler | None = None,
        proposals: ProposalSelector | None = None,
        region_sampler: RandomSampler | None = None,
        pooler: RegionPooler | None = None,
        box_weights=(10.0, 10.0, 5.0, 5.0),
        smooth_l1_beta: float = 0.0,
        decoder: DetectionDecoder | None = None,
        dtype=None,
        **kwargs,
    ):
        check_choice("arrangement", arrangement, ("released", "paper"))
        anchors = anchors or AnchorGenerator(8.0, octaves=1)
        pooler = pooler or RegionPooler()
        hidden = "dense"
        if arrangement == "paper" and neck is not None:
            hidden = "task_attention"
            neck = as_neck(neck, pyramid, use_task_attention=False, dtype=dtype)
            if getattr(neck, "use_task_attention", False):
                raise ValueError(
                    'With `arrangement="paper"`, task-aware attention follows the pooling, so the '
                    "neck must have `use_task_attention=False`. Received: use_task_attention=True"
                )
        head = TwoStageHead(
            num_classes,
            anchors.per_cell,
            pooler.size,
            head_layers,
            head_units,
            hidden,
            dtype=dtype,
            name="head",
        )
        super().__init__(
            backbone,
            head,
            neck=neck,
            pyramid=pyramid,
            decoder=decoder or DetectionDecoder(max_candidates=4000),
            dtype=dtype,
            **kwargs,
        )
        self.num_classes = head.num_classes
        self.arrangement = arrangement
        self.head_layers = head_layers
        self.head_units = head_units
        self.anchors = anchors
        self.assigner = assigner or MaxIoUAssigner(0.7, 0.3)
        self.sampler = sampler or RandomSampler(256, 0.5)
        self.proposals = proposals or ProposalSelector()
        self.region_sampler = region_sampler or RandomSampler(512, 0.25)
        self.pooler = pooler
        self.box_weights = tuple(box_weights)
        self.smooth_l1_beta = smooth_l1_beta
        self.locations_per_cell = anchors.per_cell
        self.noise_generator = keras.random.SeedGenerator()

    @classmethod
    def default_pyramid(cls, channels: int = 256, dtype=None) -> FeaturePyramid:
        """Returns a pyramid with levels P2 to P6; see `Detector.default_pyramid`."""
        return FeaturePyramid(channels, 2, 6, "pool", dtype=dtype, name="feature_pyramid")

    def get_config(self):
        return super().get_config() | {
            "num_classes": self.num_classes,
            "arrangement": self.arrangement,
            "head_layers": self.head_layers,
            "head_units": self.head_units,
            "anchors": serialize_keras_object(self.anchors),
            "assigner": serialize_keras_object(self.assigner),
            "sampler": serialize_keras_object(self.sampler),
            "proposals": serialize_keras_object(self.proposals),
            "region_sampler": serialize_keras_object(self.region_sampler),
            "pooler": serialize_keras_object(self.pooler),
            "box_weights": self.box_weights,
            "smooth_l1_beta": self.smooth_l1_beta,
        }

    def propose(self, raw, image_sizes=None, training=False) -> Proposals:
        """Returns the regions that the first stage proposes, without gradients.

        Args:
            raw: Dict of raw outputs.
            image_sizes: `(B, 2)` (height, width) of the images without padding, to clip regions
                to, or `None`.
            training: bool. Whether to use the number of candidates for training.
        """
        level_sizes = self.level_sizes(raw)
        logits, deltas = (
            ops.stop_gradient(ops.convert_to_tensor(raw[key]))
            for key in ("objectness_logits", "anchor_deltas")
        )
        anchors = self.anchors(level_sizes, self.pyramid.min_level)
        counts = self.level_counts(level_sizes)
        return self.proposals(logits, deltas, anchors, counts, image_sizes, training)

    def classify(self, raw, boxes):
        """Runs the second stage on regions.

        Args:
            raw: Dict of raw outputs.
            boxes: `(B, R, 4)` float32 xyxy pixels.

        Returns:
            Dict of `"class_logits"` `(B, R, K + 1)`, the background last, and `"box_deltas"`
            `(B, R, K, 4)`, float32.
        """
        return self.head.box_head(self.pooler(self.head.pooled_levels(raw), boxes))

    def decode(self, raw, image_sizes=None):
        """Turns raw outputs into detections with the second stage; see `Detector.decode`."""
        regions = self.propose(raw, image_sizes)
        outputs = self.classify(raw, regions.boxes)
        probabilities = ops.softmax(outputs["class_logits"])[..., :-1]
        return self.decoder.from_probabilities(
            ops.where(regions.found[..., None], probabilities, 0.0),
            decode_boxes(outputs["box_deltas"], regions.boxes[:, :, None], self.box_weights),
            image_sizes,
        )

    def compute_losses(self, raw, boxes, labels, training=False):
        """Returns the losses of both stages on random samples of anchors and proposals.

        Proposals are chosen as in training and clipped to the batch's height and width.
        """
        stride = 2**self.pyramid.min_level
        canvas = [side * stride for side in self.level_sizes(raw)[0]]
        proposals = self.propose(raw, ops.stack(canvas)[None], training=True)
        noise = functools.partial(keras.random.uniform, seed=self.noise_generator)
        batch, num_anchors = ops.shape(raw["objectness_logits"])
        num_regions = ops.shape(boxes)[1] + ops.shape(proposals.boxes)[1]
        return {
            **self.proposal_losses(raw, boxes, labels, noise((batch, num_anchors))),
            **self.region_losses(raw, proposals, boxes, labels, noise((batch, num_regions))),
        }

    def proposal_losses(self, raw, boxes, labels, noise):
        """Returns cross-entropy for objectness and smooth L1 for the deltas of sampled anchors.

        The anchors with the largest `noise`, `(B, A)` in [0, 1), are sampled.
        """
        anchors = self.anchors(self.level_sizes(raw), self.pyramid.min_level)
        assigned = self.assigner(anchors, boxes, labels)
        sample = self.sampler(assigned, noise)
        logits = take_per_image(raw["objectness_logits"], sample.indices)
        loss = ops.binary_crossentropy(
            ops.cast(sample.positive, "float32"), logits, from_logits=True
        )
        anchors = ops.take(anchors, sample.indices, axis=0)
        objects = ops.maximum(take_per_image(assigned, sample.indices), 0)
        # An anchor without an object is its own target, so that the deltas are finite.
        targets = ops.where(sample.positive[..., None], take_per_image(boxes, objects), anchors)
        box_loss = smooth_l1_loss(
            encode_boxes(targets, anchors),
            take_per_image(raw["anchor_deltas"], sample.indices),
            self.smooth_l1_beta,
        )
        objectness_loss, proposal_loss = _mean_losses(sample, loss, box_loss)
        return {"objectness_loss": objectness_loss, "proposal_loss": proposal_loss}

    def region_losses(self, raw, proposals, boxes, labels, noise):
        """Returns cross-entropy for classes and smooth L1 for the boxes of sampled regions.

        The objects themselves are also regions; they come first in `noise`, `(B, N + R)` in [0, 1).
        """
        assigned = self.region_assigner(proposals.boxes, boxes, labels)
        assigned = ops.where(proposals.found, assigned, IGNORED)
        objects = ops.arange(ops.shape(boxes)[1], dtype="int32")
        objects = ops.where((labels >= 0) & ~is_empty(boxes), objects, IGNORED)
        assigned = ops.concatenate([objects, assigned], axis=1)
        sample = self.region_sampler(assigned, noise)

        regions = ops.concatenate([boxes, proposals.boxes], axis=1)
        regions = take_per_image(regions, sample.indices)
        regions = ops.where(sample.used[..., None], regions, ops.array([0.0, 0.0, 1.0, 1.0]))
        objects = take_per_image(assigned, sample.indices)
        objects = ops.where(sample.positive, objects, 0)
        classes = take_per_image(labels, objects)
        outputs = self.classify(raw, regions)
        loss = ops.sparse_categorical_crossentropy(
            ops.where(sample.positive, classes, self.num_classes),
            outputs["class_logits"],
            from_logits=True,
        )
        targets = ops.where(sample.positive[..., None], take_per_image(boxes, objects), regions)
        # Only the deltas of the object's class; -1, where there is no object, is all zeros.
        own = ops.one_hot(ops.where(sample.positive, classes, -1), self.num_classes)
        deltas = ops.sum(outputs["box_deltas"] * own[..., None], axis=2)
        box_loss = smooth_l1_loss(
            encode_boxes(targets, regions, self.box_weights), deltas, self.smooth_l1_beta
        )
        class_loss, box_loss = _mean_losses(sample, loss, box_loss)
        return {"class_loss": class_loss, "box_loss": box_loss}


def _mean_losses(sample, loss, box_loss):
    """Sums the losses of samples, those of boxes for positives, per sample on all replicas."""
    count = ops.maximum(sum_over_replicas(ops.sum(ops.cast(sample.used, "float32"))), 1.0)
    total = ops.sum(ops.where(sample.used, loss, 0.0))
    box_total = ops.sum(ops.where(sample.positive[..., None], box_loss, 0.0))
    return total / count, box_total / count
