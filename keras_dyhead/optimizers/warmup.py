"""A learning rate schedule with linear warmup."""

import keras
from keras import ops

from keras_dyhead.ops.arguments import check, whole_number

START = 0.001  # fraction of the schedule at step 0


@keras.saving.register_keras_serializable(package="keras_dyhead")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """A `LearningRateSchedule` that starts at a fraction of another and rises linearly to it.

    `rate(step) = schedule(step) * (0.001 + 0.999 * min(step / steps, 1))`

    Args:
        schedule: Another `LearningRateSchedule`.
        steps: Number of warmup steps, at least 1.

    Raises:
        ValueError: If `schedule` is no schedule, or `steps` no positive integer.

    Example:

    >>> schedule = keras.optimizers.schedules.PiecewiseConstantDecay([59999], [0.01, 0.001])
    >>> rate = LinearWarmup(schedule, 1000)
    >>> float(rate(0)), float(rate(1000)), float(rate(60000))
    (1e-05, 0.01, 0.001)

    Source: `WarmupMultiStepLR` of detectron2 and `warmup="linear"` of mmdetection 2.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, steps: int):
        super().__init__()
        is_schedule = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
        check("schedule", schedule, is_schedule, "a LearningRateSchedule")
        self.schedule = schedule
        self.steps = whole_number(steps, "steps")

    def __call__(self, step):
        """Returns the learning rate of a step, counted from 0."""
        progress = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return self.schedule(step) * (START + (1.0 - START) * progress)

    def get_config(self):
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "steps": self.steps}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects))
