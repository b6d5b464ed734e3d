"""Samples anchors or regions for a training step."""

import dataclasses
from typing import NamedTuple

import keras
from keras import ops

from keras_dyhead.detectors.assigners import NEGATIVE
from keras_dyhead.detectors.locations import smaller
from keras_dyhead.detectors.settings import Settings
from keras_dyhead.ops.boxes import take_per_image


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
