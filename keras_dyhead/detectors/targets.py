"""Checks training data outside the compiled step, however it is passed to the model."""

import functools
import re

import keras
from keras import ops

from keras_dyhead.detectors.replicas import with_an_image
from keras_dyhead.layers.frozen import CompositeModel
from keras_dyhead.ops.sampling_form import is_compiled
from keras_dyhead.printable import counted

_MESSAGE = re.compile(r"(Images|Targets) must .*? Received: .*?\]\.", re.DOTALL)
_SHAPES = "Targets must be numbers, boxes (B, N, 4) and labels (B, N)"
_IMAGES = "Images must be (B, height, width, channels)"


def check_classes(detector, data) -> None:
    """Checks that data has the classes of a detector, if both are known.

    Both may have `class_names`; a detector may have only `num_classes`.

    Raises:
        ValueError: If names, their order or their number differ.
    """
    names = getattr(data, "class_names", None)
    if names is None:
        return
    known = getattr(detector, "class_names", None)
    count = getattr(detector, "num_classes", None) if known is None else len(known)
    if known is not None and list(known) != list(names) or count not in (None, len(names)):
        has = counted(count, "class") if known is None else f"the classes {list(known)[:20]}"
        raise ValueError(
            f"The model has {has}, the data have {len(names)}: {list(names)[:20]}. Pass the "
            "model's names, in order, as `class_names` of the data, or build a model for the data."
        )


def check_targets(data, num_classes: int, num_devices: int = 1):
    """Returns a checked batch `(images, targets)` for a step; ragged targets become dense.

    This runs on the CPU before the step, even if the step is compiled, so that invalid labels and
    boxes never reach the weights. Labels must be integers below `num_classes`, or -1 where padded.
    Boxes must be finite, their right and bottom sides not before the left and top ones, and those
    of several objects not all within the first pixel, like fractions of the image size.
    `num_devices` share each batch of the dataset.

    Raises:
        ValueError: If a label or the box of an object is invalid, or a device has no images. Inside
            a TensorFlow graph, this is an `InvalidArgumentError`; see `target_error`.
    """
    images, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
    checks = []
    with keras.device("cpu:0"):
        if num_devices > 1:
            count = ops.reshape(ops.shape(keras.tree.flatten(images)[0])[0], (1,))
            fewer = (
                "Images must number at least one per device in each batch: drop a smaller last "
                "batch, as `load_coco` does with `drop_remainder=True`"
            )
            checks.append(_check(count > 0, fewer, lambda: count))
        if not isinstance(images, dict | list | tuple):
            images = _with_known_rank(images, (None,) * 4, _IMAGES)
        if isinstance(targets, dict) and {"boxes", "labels"} <= set(targets):  # else the step fails
            targets = {
                key: value.to_tensor(-1) if hasattr(value, "to_tensor") else value
                for key, value in targets.items()
            }
            for key, shape in (("boxes", (None, None, 4)), ("labels", (None, None))):
                targets[key] = _with_known_rank(targets[key], shape, _SHAPES)
            checks += _check_objects(targets["boxes"], targets["labels"], num_classes)
    checks = [check for check in checks if check is not None]
    if checks:
        import tensorflow as tf

        with tf.control_dependencies(checks):
            images = tf.nest.map_structure(tf.identity, images)
            if targets is not None:
                targets = tf.nest.map_structure(tf.identity, targets)
    return keras.utils.pack_x_y_sample_weight(images, targets, weights)


def without_unused_padding(boxes, labels):
    """Trims targets to the fullest image of the batch, where shapes may be dynamic.

    A dataset may pad to its fullest image, and losses need memory for each anchor and object.
    """
    if keras.backend.backend() != "tensorflow" or is_compiled():
        return boxes, labels
    numbers = ops.arange(1, ops.shape(labels)[1] + 1, dtype="int32")
    used = ops.max(ops.where(labels >= 0, numbers, 0), initial=0)
    return boxes[:, :used], labels[:, :used]


def _check_objects(boxes, labels, num_classes: int) -> list:
    boxes, labels = map(ops.convert_to_tensor, (boxes, labels))
    sides = zip(boxes.shape[:2], labels.shape, strict=False)
    agree = all(None in pair or pair[0] == pair[1] for pair in sides)
    agree &= "string" not in map(keras.backend.standardize_dtype, (boxes.dtype, labels.dtype))
    if not agree or len(labels.shape) != 2 or len(boxes.shape) != 3 or boxes.shape[-1] != 4:
        raise ValueError(
            f"{_SHAPES}. Received shapes: {tuple(boxes.shape)} and {tuple(labels.shape)}, "
            f"dtypes: {boxes.dtype} and {labels.dtype}"
        )
    boxes, labels = ops.cast(boxes, "float32"), ops.cast(labels, "float32")
    whole = (labels == ops.floor(labels)) & (labels >= -1) & (labels < num_classes)
    finite = ops.all(ops.isfinite(boxes), axis=-1) | (labels < 0)
    ordered = ~ops.any(boxes[..., 2:] < boxes[..., :2], axis=-1) | (labels < 0)
    objects = labels >= 0
    in_pixel = ops.all(ops.all(ops.abs(boxes) <= 1, axis=-1) | ~objects)
    uneven = ops.any(ops.any(boxes != ops.floor(boxes), axis=-1) & objects)
    several = ops.sum(ops.cast(objects, "int32")) > 1  # one such object may exist
    fractions = in_pixel & uneven & several
    expected = f"Targets must have labels from 0 to {num_classes - 1}, or -1 where padded"
    return [
        _check(whole, expected, lambda: labels[~whole]),
        _check(finite, "Targets must have finite boxes", lambda: boxes[~finite]),
        _check(
            ordered,
            "Targets must have boxes of left, top, right, bottom, in this order",
            lambda: boxes[~ordered],
        ),
        _check(
            ~fractions,
            "Targets must have boxes in pixels, not fractions of the image size",
            lambda: boxes[objects][:1],
        ),
    ]


def _with_known_rank(values, shape: tuple, expected: str):
    """Checks values whose rank or last side a TensorFlow graph does not know, else does nothing."""
    known = getattr(values, "shape", ())
    if getattr(known, "rank", 0) is not None and (shape[-1] is None or None not in known[-1:]):
        return values
    import tensorflow as tf

    fits = tf.rank(values) == len(shape)
    if shape[-1] is not None:
        fits &= tf.reduce_all(tf.shape(values)[-1:] == shape[-1])
    with tf.control_dependencies([_check(fits, expected, lambda: tf.shape(values))]):
        values = tf.identity(values)
    values.set_shape(shape)
    return values


def _check(valid, expected: str, received):
    """Asserts that all is valid: raises an error, or returns a TensorFlow graph operation."""
    valid = ops.all(valid)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        def message():
            return tf.strings.format(f"{expected}. Received: {{}}.", received()[:5])

        if not tf.executing_eagerly():
            return tf.debugging.Assert(valid, [tf.cond(valid, lambda: "", message)])
    if not valid:
        found = ops.convert_to_numpy(received()[:5])
        raise ValueError(f"{expected}. Received: {found}.")
    return None


def target_error(error: Exception) -> ValueError | None:
    """Returns the error of `check_targets` that made a graph fail, or `None` if another did."""
    found = _MESSAGE.search(str(error))
    return found and ValueError(found[0])


class CheckedModel(CompositeModel):
    """A `keras.Model` with `num_classes` that checks its training data."""

    _checks_all_devices = False
    class_names = None

    def fit(self, x=None, *args, validation_data=None, **kwargs):
        """Trains like `keras.Model.fit`, on data with the classes of the model.

        A model without `class_names` takes those of the dataset, if it has any.

        Raises:
            ValueError: If the number or the names of the classes differ, a label is out of range,
                or a box is not finite.
        """
        check_classes(self, x)
        if self.class_names is None and getattr(x, "class_names", None) is not None:
            self.class_names = tuple(x.class_names)
        check_classes(self, validation_data)
        return super().fit(x, *args, validation_data=validation_data, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """Computes the losses like `keras.Model.evaluate`, with the checks of `fit`."""
        check_classes(self, x)
        return super().evaluate(x, *args, **kwargs)

    def _make_function(self, step_function, **options):
        """Makes Keras' function of an iterator check each batch before the compiled step."""
        if keras.backend.backend() == "jax":

            def checked_step(state, data):
                try:
                    data = check_targets(data, self.num_classes)
                except ValueError:  # put back the weights, which Keras takes out for a step
                    names = ("trainable", "non_trainable", "optimizer", "metrics")
                    names = names if len(state) == 4 else (*names[:2], "metrics")
                    self._jax_state = {
                        f"{n}_variables": s for n, s in zip(names, state, strict=True)
                    }
                    self._jax_state_synced = False
                    self.jax_state_sync()
                    raise
                return step_function(state, data)

            return super()._make_function(checked_step, **options)
        import tensorflow as tf

        self._checks_all_devices = True
        function = super()._make_function(step_function, **options)
        self._checks_all_devices = False

        @functools.wraps(function)
        def checked(iterator):
            try:
                return function(iterator)
            except tf.errors.InvalidArgumentError as error:
                raise target_error(error) or error from None

        return checked

    def _autoconvert_optionals(self, step_func):
        """Checks a batch where Keras calls TensorFlow's compiled step, outside XLA."""
        strategy = self.distribute_strategy
        devices = strategy.num_replicas_in_sync
        if not self._checks_all_devices:  # `predict` has no targets, and runs on one device here
            step_func = with_an_image(step_func) if devices > 1 else step_func
            return super()._autoconvert_optionals(step_func)
        check = functools.partial(check_targets, num_classes=self.num_classes, num_devices=devices)

        def checked_step(data):
            return step_func(strategy.run(check, args=(data,)) if devices > 1 else check(data))

        return super()._autoconvert_optionals(checked_step)
