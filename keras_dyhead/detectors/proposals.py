"""Proposals of two-stage detectors, and the samples that their stages train on."""

import dataclasses
from typing import NamedTuple

import keras
from keras import ops

from keras_dyhead.detectors.assigners import NEGATIVE
from keras_dyhead.detectors.locations import smaller
from keras_dyhead.detectors.settings import Settings
from keras_dyhead.ops.boxes import clip_boxes, decode_boxes, is_empty, take_per_image
from keras_dyhead.ops.nms import non_max_suppression


class Proposals(NamedTuple):
    """Regions that may contain objects, the most likely first.

    Attributes:
        boxes: `(B, R, 4)` float32 xyxy pixels, padded with zeros.
        logits: `(B, R)` float32 objectness.
        found: `(B, R)` bool. `False` where padded.
    """

    boxes: keras.KerasTensor
    logits: keras.KerasTensor
    found: keras.KerasTensor


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class ProposalSelector(Settings):
    """Selects the best anchors of every level, then suppresses duplicates within each level.

    Args:
        max_candidates: int. Candidates kept per level. Defaults to 1000.
        training_candidates: int. The same in training. Defaults to 2000.
        max_proposals: int. Maximum proposals per image over all levels. Defaults to 1000.
        iou_threshold: float. Of two candidates of the same level with a larger IoU, only the better
            one is kept. Defaults to 0.7.

    Example:
    ```python
    anchors = AnchorGenerator(8.0, octaves=1)([(2, 2)], min_level=2)  # (12, 4)
    logits, deltas = keras.random.normal((1, 12)), keras.ops.zeros((1, 12, 4))
    select = ProposalSelector(max_proposals=5)
    select(logits, deltas, anchors, level_counts=[12]).boxes.shape  # (1, 5, 4)
    ```

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.3; level by level as in detectron2
    and mmdetection, with the same proposals.
    """

    max_candidates: int = 1000
    training_candidates: int = 2000
    max_proposals: int = 1000
    iou_threshold: float = 0.7

    def __post_init__(self):
        if min(self.max_candidates, self.training_candidates, self.max_proposals) < 1:
            raise ValueError(f"All numbers must be at least 1. Received: {self}")

    def __call__(self, logits, deltas, anchors, level_counts, image_sizes=None, training=False):
        """Selects the proposals of a batch.

        Args:
            logits: `(B, A)` float32 objectness.
            deltas: `(B, A, 4)` float32, relative to the anchors.
            anchors: `(A, 4)` float32.
            level_counts: Number of anchors in each level, ints or scalar tensors; their sum is A.
            image_sizes: `(B, 2)` (height, width) of the images without padding, to clip boxes to.
                `None` leaves them unclipped. Empty boxes are dropped.
            training: bool. Whether to use `training_candidates`. Defaults to `False`.

        Returns:
            `Proposals`, with R = `max_proposals`, or less if there are fewer candidates.
        """
        logits, index, levels = self._candidates(logits, level_counts, training)
        boxes = decode_boxes(take_per_image(deltas, index), ops.take(anchors, index, axis=0))
        if image_sizes is not None:
            boxes = clip_boxes(boxes, image_sizes)
        # Ranks are positive and distinct, whatever the logits.
        num = ops.shape(logits)[1]
        ranks = ops.cast(num - ops.arange(num), "float32")
        scores = ops.where(is_empty(boxes), 0.0, ranks)
        places = min(self.max_proposals, num) if isinstance(num, int) else self.max_proposals
        picked = non_max_suppression(boxes, scores, levels, self.iou_threshold, places)
        found, picked = picked >= 0, ops.maximum(picked, 0)
        boxes, logits = take_per_image(boxes, picked), take_per_image(logits, picked)
        return Proposals(ops.where(found[..., None], boxes, 0.0), logits, found)

    def _candidates(self, logits, level_counts, training):
        """Returns logits, indices and levels `(B, C)` of candidates, sorted by descending logit."""
        most = self.training_candidates if training else self.max_candidates
        best, indices, levels, start = [], [], [], 0
        for level, count in enumerate(level_counts):
            values, index = ops.top_k(logits[:, start : start + count], smaller(most, count))
            index = ops.cast(index, "int32")
            best.append(values)
            indices.append(index + start)
            levels.append(ops.zeros_like(index) + level)
            start = start + count
        best, indices, levels = (ops.concatenate(x, axis=1) for x in (best, indices, levels))
        best, order = ops.top_k(best, ops.shape(best)[1])
        return best, take_per_image(indices, order), take_per_image(levels, order)


class Sample(NamedTuple):
    """The samples of each image.

    Attributes:
        indices: `(B, S)` int32.
        positive: `(B, S)` bool. Whether a sample has an object.
        negative: `(B, S)` bool. Whether a sample is background. If it is neither, it is padding.
    """

    indices: keras.KerasTensor
    positive: keras.KerasTensor
    negative: keras.KerasTensor

    @property
    def used(self):
        """`(B, S)` bool. `False` for padding."""
        return self.positive | self.negative


@keras.saving.register_keras_serializable(package="keras_dyhead")
@dataclasses.dataclass(frozen=True)
class RandomSampler(Settings):
    """Draws positives up to a fraction of the sample, and negatives for the rest.

    Args:
        num: int. Maximum samples per image. Defaults to 256.
        positive_fraction: float. Maximum fraction of positives in `num`. Defaults to 0.5.

    Example:
    ```python
    assigned = keras.ops.array([[0, -1, -2, 1, -1, -1]])  # two positives, three negatives
    noise = keras.random.uniform((1, 6))
    sample = RandomSampler(num=4, positive_fraction=0.25)(assigned, noise)
    sample.positive  # [[True, False, False, False]]
    ```
    """

    num: int = 256
    positive_fraction: float = 0.5

    def __post_init__(self):
        if self.num < 1 or not 0 <= self.positive_fraction <= 1:
            raise ValueError(
                "`num` must be at least 1 and `positive_fraction` between 0 and 1. "
                f"Received: {self}"
            )

    def __call__(self, assigned, noise):
        """Draws the samples with the largest noise.

        Args:
            assigned: `(B, A)` int32: index of an object, -1 for background, -2 for ignored.
            noise: `(B, A)` float32 random numbers in [0, 1).

        Returns:
            A `Sample` with `num` entries per image (or A, if smaller), the positives first.
        """
        count = ops.shape(assigned)[1]
        num_positives = smaller(int(self.num * self.positive_fraction), count)
        places = smaller(self.num, count)
        noises, indices = [], []
        for eligible, most in ((assigned >= 0, num_positives), (assigned == NEGATIVE, places)):
            best, index = ops.top_k(ops.where(eligible, noise, -1.0), most)
            noises.append(best)
            indices.append(ops.cast(index, "int32"))
        drawn = ops.concatenate(noises, axis=1) >= 0
        # Positives come first, then negatives, then padding.
        rank = ops.where(drawn, -ops.cumsum(ops.ones_like(drawn, dtype="int32"), axis=1), -(2**30))
        kept = ops.top_k(rank, places)[1]
        drawn = take_per_image(drawn, kept)
        is_positive = kept < num_positives
        return Sample(
            take_per_image(ops.concatenate(indices, axis=1), kept),
            drawn & is_positive,
            drawn & ~is_positive,
        )
