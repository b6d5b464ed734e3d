"""The base class of all detectors: backbone, pyramid, DyHead, training and prediction."""

import json
import re
from collections.abc import Iterable, Sequence

import keras
from keras import ops
from keras.saving import serialize_keras_object

from keras_dyhead.detectors.decoding import DetectionDecoder
from keras_dyhead.detectors.locations import known_sizes
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.detectors.replicas import (
    MeanOfShares,
    logs_to_average,
    num_replicas,
    sum_gradients_first,
)
from keras_dyhead.detectors.targets import CheckedModel, check_targets, without_unused_padding
from keras_dyhead.layers.dyhead_neck import DyHeadNeck
from keras_dyhead.layers.feature_pyramid import FeaturePyramid
from keras_dyhead.ops.arguments import check, warn_ignored, whole_number
from keras_dyhead.printable import counted


class Detector(CheckedModel):
    """A `keras.Model` that trains on boxes and predicts detections.

    Backbone, feature pyramid, DyHead and head form a functional graph from preprocessed images to
    raw outputs. A subclass builds the head, lists its losses in `loss_names`, and implements
    `compute_losses` and `decode`. Its `get_config` adds the arguments it builds the head from.

    Training batches are tuples `(images, targets)`: preprocessed images `(B, H, W, 3)` and a dict
    with `"boxes"` `(B, N, 4)`, xyxy in pixels of those images, and `"labels"` `(B, N)`, padded
    with -1. Other entries of the dict are ignored. Images without objects are all background.

    Under a `tf.distribute` strategy, losses are normalized by the positives of all replicas: a
    step equals that of a single device on the whole batch.

    Args:
        backbone: A model with `pyramid_outputs`, such as a KerasHub `FeaturePyramidBackbone`, or a
            model or layer that maps images to a dict `{"P3": C3, ...}` of feature maps.
        head: Layer that turns the pyramid into raw outputs, a dict with `"level_sizes"`, `(L, 2)`
            int32 (height, width).
        neck: Layer between pyramid and head that returns a pyramid, such as a `DyHeadNeck`. `None`
            leaves DyHead out. Defaults to `"dyhead"`: a `DyHeadNeck` with the pyramid's channels.
        pyramid: The `FeaturePyramid`. Defaults to `default_pyramid` with the neck's channels.
        image_shape: Shape of a preprocessed image. A known height and width give XLA static
            shapes. Defaults to `(None, None, 3)`.
        decoder: Defaults to `DetectionDecoder()`.
        preprocessor: Defaults to a `DetectionPreprocessor` for `image_shape`.
        class_names: Names of the labels, saved with the model. Defaults to `None`.
        dtype: Dtype policy of the default `neck` and `pyramid`. Defaults to the global policy.
        **kwargs: `name` and `trainable`.

    Raises:
        TypeError: If `neck` or `pyramid` has the wrong type.
        ValueError: If `image_shape` does not have three entries or, without a `preprocessor`,
            three channels, or if `class_names` does not have one name per class.
    """

    loss_names = ("class_loss", "box_loss")
    class_layers = ("class_logits",)  # layers with weights for each class
    locations_per_cell = 1  # rows of raw output per pixel of a pyramid level

    def __init__(
        self,
        backbone,
        head: keras.layers.Layer,
        neck: keras.layers.Layer | str | None = "dyhead",
        pyramid: FeaturePyramid | None = None,
        image_shape=(None, None, 3),
        decoder: DetectionDecoder | None = None,
        preprocessor: DetectionPreprocessor | None = None,
        class_names: Sequence[str] | None = None,
        dtype=None,
        **kwargs,
    ):
        dtype = keras.dtype_policies.get(dtype)
        warn_ignored(type(self).__name__, kwargs)
        is_shape = isinstance(image_shape, Iterable) and len(image_shape) == 3
        if not is_shape or (preprocessor is None and image_shape[-1] != 3):
            raise ValueError(
                "`image_shape` must be (height, width, 3) for RGB images. "
                f"Received: image_shape={image_shape}"
            )
        image_shape = tuple(n if n is None else whole_number(n, "image_shape") for n in image_shape)
        if not isinstance(pyramid, FeaturePyramid | None):
            raise TypeError(f"`pyramid` must be a FeaturePyramid or None. Received: {pyramid!r}")
        neck = as_neck(neck, pyramid, dtype=dtype)
        pyramid = pyramid or self.default_pyramid(getattr(neck, "channels", 256), dtype)
        images = keras.Input(image_shape, name="images")
        maps = pyramid(backbone_pyramid(backbone, pyramid.min_level, pyramid.max_level)(images))
        if neck is not None:
            maps = neck(maps)
        super().__init__(inputs=images, outputs=head(maps), **kwargs)

        self.backbone = backbone
        self.pyramid = pyramid
        self.neck = neck
        self.head = head
        self.image_shape = image_shape
        self.decoder = decoder or DetectionDecoder()
        image_size = None if None in image_shape[:2] else image_shape[:2]
        self.preprocessor = preprocessor or DetectionPreprocessor(
            image_size, pad_multiple=2**pyramid.max_level
        )
        self.class_names = class_names
        self.dtype_policy = dtype
        self.loss_trackers = {name: MeanOfShares(name=name) for name in self.loss_names}
        self.jit_compile = keras.backend.backend() == "jax"  # until `compile` sets it

    @classmethod
    def default_pyramid(cls, channels: int = 256, dtype=None) -> FeaturePyramid:
        """Returns the pyramid to use if none is given."""
        return FeaturePyramid(channels, dtype=dtype, name="feature_pyramid")

    def compute_losses(self, raw, boxes, labels, training=False):
        """Returns a dict with a scalar for each of `loss_names`.

        Args:
            raw: Dict of raw outputs.
            boxes: `(B, N, 4)` float32, N >= 1.
            labels: `(B, N)` int32, -1 where padded.
            training: bool. Whether this is a training step, which may update running statistics.
        """
        raise NotImplementedError

    def decode(self, raw, image_sizes=None):
        """Turns raw outputs into detections.

        Args:
            raw: Dict of raw outputs, as `model(images)` returns it.
            image_sizes: `(B, 2)` (height, width) of each image without its padding. Boxes are
                clipped to it; `None` leaves them unclipped.

        Returns:
            Dict `{"boxes": (B, N, 4) float32 xyxy pixels of the preprocessed images, "labels":
            (B, N) int32, "confidence": (B, N) float32, "num_detections": (B,) int32}`, sorted by
            descending confidence and padded with label -1.
        """
        raise NotImplementedError

    def detect(self, batch) -> dict:
        """Detects objects in a preprocessed batch, with boxes in pixels of the original images.

        Args:
            batch: The output of `model.preprocessor(images)`.

        Returns:
            A dict like that of `decode`.
        """
        detections = self.decode(self(batch["images"], training=False), batch["image_sizes"])
        scales = ops.tile(ops.flip(batch["scales"], axis=-1), (1, 2))  # x, y, x, y
        return detections | {"boxes": detections["boxes"] / scales[:, None]}

    def compile(self, optimizer=None, jit_compile: bool | None = None, **kwargs):
        """Configures the model for training.

        Args:
            optimizer: Defaults to AdamW with learning rate 1e-4, weight decay 1e-4 and gradients
                clipped to a global norm of 10.
            jit_compile: bool. Whether to compile steps with XLA, once per image size, which takes
                minutes on TensorFlow. Defaults to `True` on JAX, else `False`. TensorFlow cannot
                compile steps of several replicas.
            **kwargs: Other arguments of `keras.Model.compile` except losses and metrics. For AP,
                use `keras_dyhead.coco.CocoEvaluation`.

        Raises:
            ValueError: If a loss or metrics are given, or `jit_compile` is `True` with several
                replicas.
        """
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(1e-4, weight_decay=1e-4, global_clipnorm=10.0)
        for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"{type(self).__name__} has its own losses and metrics: `{name}` must be None. "
                    f"Received: {name}={kwargs[name]!r}"
                )
        if jit_compile is None:
            jit_compile = keras.backend.backend() == "jax"
        if jit_compile is True and num_replicas() > 1:
            raise ValueError(
                "XLA cannot compile a step of several replicas, so `jit_compile` must be False "
                f"under a strategy with {num_replicas()} replicas. Received: jit_compile=True"
            )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        if num_replicas() > 1:
            sum_gradients_first(self.optimizer)
            self._loss_tracker = MeanOfShares(name="loss")

    @property
    def decoder(self):
        """The `DetectionDecoder`. A new one takes effect at the next `predict`."""
        return self._decoder

    @decoder.setter
    def decoder(self, decoder):
        self._decoder = decoder
        self.predict_function = None

    @property
    def class_names(self):
        """Names of the labels, one for each class, or `None`."""
        return self._class_names

    @class_names.setter
    def class_names(self, class_names):
        names = None if class_names is None else _names(class_names)
        if names is not None:
            # A custom head may lack `num_classes`.
            count = getattr(self.head, "num_classes", len(names) or 1)
            expected = f"a sequence of {counted(count, 'name')}, one for each class"
            check("class_names", class_names, len(names) == count, expected)
        self._class_names = names

    def get_config(self):
        """Returns the constructor arguments except `head`, and the names of frozen layers."""
        return super().get_config() | {
            "backbone": serialize_keras_object(self.backbone),
            "neck": serialize_keras_object(self.neck),
            "pyramid": serialize_keras_object(self.pyramid),
            "decoder": serialize_keras_object(self.decoder),
            "preprocessor": serialize_keras_object(self.preprocessor),
            "class_names": self.class_names,
        }

    def with_classes(self, class_names: Sequence[str]) -> "Detector":
        """Returns a copy of this detector that can be fine-tuned for other classes.

        Layers in `class_layers` are reinitialized: those that predict class scores and, in Faster
        R-CNN, a box for each class. All other weights are kept; if `class_names` are the model's
        own, so are these. Frozen layers stay frozen.

        Args:
            class_names: Names of the new labels.

        Returns:
            A new detector, not compiled. The original does not change.

        Raises:
            ValueError: If there are no names or duplicate names.

        Example:

        >>> backbone = ResNetBackbone(18, base_channels=8)
        >>> model = ATSS(backbone, 80, DyHeadNeck(1, 16), FeaturePyramid(16))
        >>> mine = model.with_classes(("cat", "dog"))
        >>> mine.num_classes, mine.class_names
        (2, ('cat', 'dog'))
        """
        names = _names(class_names)
        different = 0 < len(names) == len(set(names))
        check("class_names", class_names, different, "a sequence of different names")
        classes = {"num_classes": len(names), "class_names": names}
        model = type(self).from_config(self.get_config() | classes)
        for old, new in zip(self.weights, model.weights, strict=True):
            if names == self.class_names or not set(self.class_layers) & set(old.path.split("/")):
                new.assign(old)
        return model

    def compile_from_config(self, config):
        """Restores the optimizer and the compile arguments of a saved model."""
        # On PyTorch, Keras saves modules that other backends do not have.
        own_module = r'"keras\.src\.backend\.\w+\.optimizers\.\w+"'
        config = json.loads(re.sub(own_module, '"keras.optimizers"', json.dumps(config)))
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Sums the losses of a batch and updates their metrics."""
        if not isinstance(y, dict) or not {"boxes", "labels"} <= set(y):
            raise ValueError(
                'Targets must be a dict with "boxes" (B, N, 4) and "labels" (B, N). '
                f"Received: {list(y) if isinstance(y, dict) else type(y).__name__}"
            )
        if sample_weight is not None:
            raise ValueError("Detectors do not support `sample_weight`.")
        if keras.backend.backend() == "torch":  # its steps are not compiled
            check_targets((x, y), self.num_classes)
        boxes, labels = without_unused_padding(y["boxes"], ops.cast(y["labels"], "int32"))
        # Without this, N would be 0 if no image had objects.
        boxes = ops.pad(ops.cast(boxes, "float32"), ((0, 0), (0, 1), (0, 0)))
        labels = ops.pad(labels, ((0, 0), (0, 1)), constant_values=-1)
        losses = self.compute_losses(y_pred, boxes, labels, training)
        for name, value in losses.items():
            # Losses are summed over replicas, metrics are averaged.
            self.loss_trackers[name].update_state(
                value * num_replicas(), sample_weight=ops.shape(labels)[0]
            )
        regularization = [ops.cast(loss, "float32") / num_replicas() for loss in self.losses]
        return sum([*losses.values(), *regularization])

    def make_train_function(self, force=False):
        """Creates the training step after the optimizer's variables.

        Variables created during the first step would make TensorFlow trace it twice.
        """
        if keras.backend.backend() == "tensorflow" and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Does nothing: a detector is already built.

        Under a strategy, Keras would read a batch to infer shapes. That fails when several
        processes share the batch, and uses up an epoch of a dataset that counts its epochs.
        """

    def train_step(self, *args):
        """Runs a training step, with logs that can be averaged over processes."""
        return logs_to_average(super().train_step(*args))

    def test_step(self, *args):
        """Evaluates a batch, with logs that can be averaged over processes."""
        return logs_to_average(super().test_step(*args))

    def predict_step(self, *args):
        """Predicts the detections of a batch, clipped to the batch's height and width."""
        outputs = super().predict_step(*args)
        (images,) = keras.tree.flatten(keras.utils.unpack_x_y_sample_weight(args[-1])[0])
        canvas = ops.stack(ops.shape(images)[1:3])[None]
        if keras.backend.backend() == "jax":  # its step also returns the model's state
            raw, state = outputs
            variables = [
                *zip(self.trainable_variables, args[0][0], strict=True),
                *zip(self.non_trainable_variables, args[0][1], strict=True),
            ]
            with keras.StatelessScope(variables):  # a second stage has weights too
                return self.decode(raw, canvas), state
        return self.decode(outputs, canvas)

    def level_sizes(self, raw):
        """Returns the (height, width) of the pyramid levels that raw outputs come from."""
        return known_sizes(raw["level_sizes"])

    def level_counts(self, level_sizes):
        """Returns the number of locations in each level."""
        return [height * width * self.locations_per_cell for height, width in level_sizes]


def _names(class_names) -> tuple[str, ...]:
    """Returns names as a tuple of strings, empty for a single string or a non-iterable."""
    if isinstance(class_names, str) or not isinstance(class_names, Iterable):
        return ()
    return tuple(map(str, class_names))


def as_neck(neck, pyramid=None, **arguments):
    """Returns the layer for a detector's `neck` argument, or `None`.

    `"dyhead"` gives a `DyHeadNeck` with these arguments and the channels of `pyramid`.

    Raises:
        TypeError: If `neck` is not a layer, `None` or `"dyhead"`.
    """
    if isinstance(neck, str) and neck == "dyhead":
        if hasattr(pyramid, "channels"):
            arguments["channels"] = pyramid.channels
        return DyHeadNeck(**arguments, name="dyhead")
    if neck is None or isinstance(neck, keras.layers.Layer):
        return neck
    raise TypeError(
        '`neck` must be "dyhead", None, or a layer that maps a pyramid to a pyramid, such as '
        f"DyHeadNeck(). Received: {neck!r}"
    )


def backbone_pyramid(backbone, min_level: int, max_level: int):
    """Returns a callable that maps images to the backbone's dict `{"P3": C3, ...}` of maps.

    A backbone without `pyramid_outputs`, which KerasHub's models have, returns this dict itself.
    """
    if not hasattr(backbone, "pyramid_outputs"):
        return backbone
    wanted = range(min_level, max_level + 1)
    maps = {level: x for level, x in backbone.pyramid_outputs.items() if int(level[1:]) in wanted}
    return keras.Model(backbone.inputs, maps, name=f"{backbone.name}_pyramid")
