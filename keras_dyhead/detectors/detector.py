"""What all detectors share: backbone, pyramid and DyHead, and the training and prediction loop."""

from collections.abc import Iterable, Sequence

import keras
import numpy as np
from keras import ops
from keras.saving import serialize_keras_object

from keras_dyhead.detectors.decoding import DetectionDecoder
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.detectors.pyramid_layout import known_sizes, sizes_that_fit
from keras_dyhead.detectors.replicas import logs_to_average, num_replicas, sum_gradients_first
from keras_dyhead.detectors.targets import CheckedModel, check_targets
from keras_dyhead.layers.dyhead_neck import DyHeadNeck
from keras_dyhead.layers.feature_pyramid import FeaturePyramid
from keras_dyhead.layers.frozen import frozen_layers, with_frozen_layers
from keras_dyhead.ops.arguments import whole_number
from keras_dyhead.ops.sampling_form import is_compiled


class Detector(CheckedModel):
    """A `keras.Model` that trains on boxes and predicts detections.

    Backbone, feature pyramid, DyHead and head make the functional graph from preprocessed images
    to raw outputs. A subclass brings the head, names its losses in `loss_names`, and implements
    `compute_losses` and `decode`.

    Training data are `(images, targets)` batches: preprocessed images `(B, H, W, 3)` and a dict
    with `"boxes"` `(B, N, 4)`, xyxy pixels of those images, and `"labels"` `(B, N)`, padded with
    -1. Further entries of the dict are ignored. Images without objects train the background.

    Under a `tf.distribute` strategy losses are normalized by the positives of all replicas: one
    step equals the step of a single device on the whole batch.

    A subclass may make its `head` from arguments of its own, which its `get_config` then adds.

    Args:
        backbone: A model with `pyramid_outputs`, such as a KerasHub `FeaturePyramidBackbone`, or a
            model or layer that maps images to a dict `{"P3": C3, ...}` of maps.
        head: Layer from the pyramid to the raw outputs.
        neck: Layer from pyramid to pyramid before the head, such as a `DyHeadNeck`; `None` is the
            detector without DyHead. Defaults to `"dyhead"`: a `DyHeadNeck` with the pyramid's
            channels.
        pyramid: The `FeaturePyramid`. Defaults to `default_pyramid` with the neck's channels.
        image_shape: Shape of a preprocessed image. A known height and width give XLA static
            shapes. Defaults to `(None, None, 3)`.
        decoder: Defaults to `DetectionDecoder()`.
        preprocessor: Defaults to a `DetectionPreprocessor` for `image_shape`.
        class_names: Names of the labels, for those who read detections; saved along. Defaults to
            `None`.
        dtype: Policy of what `neck` and `pyramid` default to. Defaults to the global policy.
        **kwargs: `name` and `trainable`.

    Raises:
        TypeError: If `neck` or `pyramid` is no such layer.
        ValueError: If `image_shape` is another than the preprocessor's, of three channels, or
            `class_names` are not one for every class.
    """

    loss_names = ("class_loss", "box_loss")
    class_layers = ("class_logits",)  # whose weights belong to the classes
    locations_per_cell = 1  # rows of raw output for every pixel of a pyramid level

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
        image_shape = tuple(n if n is None else whole_number(n, "image_shape") for n in image_shape)
        if len(image_shape) != 3 or (preprocessor is None and image_shape[-1] != 3):
            raise ValueError(
                "`image_shape` must be (height, width, 3), as the preprocessor makes RGB images. "
                f"Received: image_shape={image_shape}"
            )
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
        self.preprocessor = preprocessor or DetectionPreprocessor.for_shape(
            image_shape, pyramid.max_level
        )
        self.class_names = class_names
        self.dtype_policy = dtype
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in self.loss_names}
        self.jit_compile = keras.backend.backend() == "jax"  # until `compile` says otherwise

    @classmethod
    def default_pyramid(cls, channels: int = 256, dtype=None) -> FeaturePyramid:
        """Returns the pyramid that this detector has where none is given."""
        return FeaturePyramid(channels, dtype=dtype, name="feature_pyramid")

    def compute_losses(self, raw, boxes, labels, training=False):
        """Returns a scalar for each of `loss_names`.

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
            image_sizes: `(B, 2)` (height, width) of each image without its padding, to which boxes
                are clipped. `None` leaves boxes unclipped.

        Returns:
            Dict `{"boxes": (B, N, 4) float32 xyxy pixels of the preprocessed images, "labels":
            (B, N) int32, "confidence": (B, N) float32, "num_detections": (B,) int32}`, by
            descending confidence, padded with label -1.
        """
        raise NotImplementedError

    def detect(self, batch) -> dict:
        """Detects in a batch of the preprocessor; boxes are in pixels of the images as they were.

        Args:
            batch: What `model.preprocessor(images)` returns.

        Returns:
            See `decode`.
        """
        detections = self.decode(self(batch["images"], training=False), batch["image_sizes"])
        scales = ops.tile(ops.flip(batch["scales"], axis=-1), (1, 2))  # x, y, x, y
        return detections | {"boxes": detections["boxes"] / scales[:, None]}

    def compile(self, optimizer=None, jit_compile: bool | None = None, **kwargs):
        """Configures the model for training.

        Args:
            optimizer: Defaults to AdamW with learning rate 1e-4, weight decay 1e-4 and gradients
                clipped to a global norm of 10.
            jit_compile: bool. Compile steps with XLA, once per image size. On TensorFlow that
                takes minutes. Defaults to `True` on JAX, else `False`.
            **kwargs: Further arguments of `keras.Model.compile`; the losses are built in.
        """
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(1e-4, weight_decay=1e-4, global_clipnorm=10.0)
        if kwargs.get("loss") is not None:
            raise ValueError(
                f"{type(self).__name__} brings its own losses. Received: loss={kwargs['loss']!r}"
            )
        if jit_compile is None:
            jit_compile = keras.backend.backend() == "jax"
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        if num_replicas() > 1:
            sum_gradients_first(self.optimizer)

    @property
    def decoder(self):
        """The `DetectionDecoder`; assigning another one takes effect in the next `predict`."""
        return self._decoder

    @decoder.setter
    def decoder(self, decoder):
        self._decoder = decoder
        self.predict_function = None

    @property
    def class_names(self):
        """Names of the labels, or `None`; there must be one for every class."""
        return self._class_names

    @class_names.setter
    def class_names(self, class_names):
        names = None if class_names is None else _names(class_names)
        if names is not None:
            # A head of one's own need not say how many classes it has.
            count = getattr(self.head, "num_classes", len(names) or 1)
            if len(names) != count:
                raise ValueError(
                    f"`class_names` must be a name for each of the {count} classes. "
                    f"Received: {class_names!r}"
                )
        self._class_names = names

    def get_config(self):
        """Returns the arguments of the constructor but the head, and which layers are frozen."""
        return {
            "backbone": serialize_keras_object(self.backbone),
            "neck": serialize_keras_object(self.neck),
            "pyramid": serialize_keras_object(self.pyramid),
            "image_shape": self.image_shape,
            "decoder": serialize_keras_object(self.decoder),
            "preprocessor": serialize_keras_object(self.preprocessor),
            "class_names": self.class_names,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
            "frozen": frozen_layers(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = keras.saving.deserialize_keras_object(config, custom_objects)
        return with_frozen_layers(cls, config)

    def with_classes(self, class_names: Sequence[str]) -> "Detector":
        """Returns this detector for other classes, to fine-tune.

        It keeps all weights but those of the layers in `class_layers`, which belong to the classes
        and start anew: the scores, and in Faster R-CNN also the boxes of every class. For its own
        `class_names` it keeps these, too. What is frozen stays frozen.

        Args:
            class_names: Names of the new labels.

        Returns:
            A new detector, not compiled; this one is left as it is.

        Raises:
            ValueError: If there are no names, or one of them twice.

        Example:

        >>> backbone = ResNetBackbone(18, base_channels=8)
        >>> model = ATSS(backbone, 80, DyHeadNeck(1, 16), FeaturePyramid(16))
        >>> mine = model.with_classes(("cat", "dog"))
        >>> mine.num_classes, mine.class_names
        (2, ('cat', 'dog'))
        """
        names = _names(class_names)
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"`class_names` must be a sequence of different names. Received: {class_names!r}"
            )
        classes = {"num_classes": len(names), "class_names": names}
        model = type(self).from_config(self.get_config() | classes)
        for old, new in zip(self.weights, model.weights, strict=True):
            if names == self.class_names or not set(self.class_layers) & set(old.path.split("/")):
                new.assign(old)
        return model

    def compile_from_config(self, config):
        """Restores optimizer and compile arguments of a saved model."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Sums the losses of a batch, and updates the metric of each."""
        if not isinstance(y, dict) or not {"boxes", "labels"} <= set(y):
            raise ValueError(
                'Targets must be a dict with "boxes" (B, N, 4) and "labels" (B, N). '
                f"Received: {list(y) if isinstance(y, dict) else type(y).__name__}"
            )
        if sample_weight is not None:
            raise ValueError("Detectors take no `sample_weight`.")
        if keras.backend.backend() == "torch":  # whose step is not compiled
            check_targets((x, y), self.num_classes)
        boxes, labels = _without_unused_places(y["boxes"], y["labels"])
        # One padded place more, so that there is one even where no image has objects.
        boxes = ops.pad(ops.cast(boxes, "float32"), ((0, 0), (0, 1), (0, 0)))
        labels = ops.pad(ops.cast(labels, "int32"), ((0, 0), (0, 1)), constant_values=-1)
        losses = self.compute_losses(y_pred, boxes, labels, training)
        for name, value in losses.items():
            # Replicas add up their shares, whereas the metric averages over replicas.
            self.loss_trackers[name].update_state(
                value * num_replicas(), sample_weight=ops.shape(labels)[0]
            )
        regularization = [ops.cast(loss, "float32") / num_replicas() for loss in self.losses]
        return sum([*losses.values(), *regularization])

    def make_train_function(self, force=False):
        """Creates the compiled training step, with the optimizer's variables created before.

        Variables created during the first step would have TensorFlow trace it a second time.
        """
        if keras.backend.backend() == "tensorflow" and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def _maybe_symbolic_build(self, *args, **kwargs):
        """Builds nothing: a detector is built already.

        Under a strategy Keras would read a batch to see shapes, which fails where several
        processes share it, and takes an epoch from a data set that counts its epochs.
        """

    def train_step(self, *args):
        """Takes a step; its logs can be averaged over processes."""
        return logs_to_average(super().train_step(*args))

    def test_step(self, *args):
        """Evaluates a batch; its logs can be averaged over processes."""
        return logs_to_average(super().test_step(*args))

    def predict_step(self, *args):
        """Predicts the detections of a batch, clipped to the batch's height and width."""
        outputs = super().predict_step(*args)
        images = keras.utils.unpack_x_y_sample_weight(args[-1])[0]
        canvas = ops.stack(ops.shape(images)[1:3])[None]
        if keras.backend.backend() == "jax":  # whose step also hands on the model's state
            raw, state = outputs
            variables = [
                *zip(self.trainable_variables, args[0][0], strict=True),
                *zip(self.non_trainable_variables, args[0][1], strict=True),
            ]
            with keras.StatelessScope(variables):  # a second stage has weights, too
                return self.decode(raw, canvas), state
        return self.decode(outputs, canvas)

    def level_sizes(self, raw, image_sizes=None):
        """Returns the (height, width) of the pyramid levels that raw outputs come from.

        Raw outputs stored without their `"level_sizes"` are matched against the model's
        `image_shape`, and the largest of `image_sizes` without and with padding.
        """
        if "level_sizes" in raw:
            return known_sizes(raw["level_sizes"])
        canvases = [] if None in self.image_shape[:2] else [self.image_shape[:2]]
        if image_sizes is not None:
            sizes = ops.convert_to_numpy(image_sizes).reshape(-1, 2)
            largest = tuple(int(side) for side in np.max(sizes, axis=0))
            canvases += [largest, self.preprocessor.canvas_size([largest])]
        num_cells = raw["class_logits"].shape[1] // self.locations_per_cell
        levels = range(self.pyramid.min_level, self.pyramid.max_level + 1)
        return sizes_that_fit(num_cells, canvases, levels)


def _names(class_names) -> tuple[str, ...]:
    """Returns the names as a tuple of texts: empty for one text, or for what is no sequence."""
    if isinstance(class_names, str) or not isinstance(class_names, Iterable):
        return ()
    return tuple(map(str, class_names))


def as_neck(neck, pyramid=None, **arguments):
    """Returns the layer that the argument `neck` of a detector stands for, or `None`.

    `"dyhead"` stands for a `DyHeadNeck` of these arguments, with as many channels as `pyramid`.

    Raises:
        TypeError: If it is no layer, and neither `None` nor `"dyhead"`.
    """
    if isinstance(neck, str) and neck == "dyhead":
        if hasattr(pyramid, "channels"):
            arguments["channels"] = pyramid.channels
        return DyHeadNeck(**arguments, name="dyhead")
    if neck is None or isinstance(neck, keras.layers.Layer):
        return neck
    raise TypeError(
        '`neck` must be a layer from pyramid to pyramid such as DyHeadNeck(), None or "dyhead". '
        f"Received: {neck!r}"
    )


def backbone_pyramid(backbone, min_level: int, max_level: int):
    """Returns a callable from images to the backbone's maps as a dict `{"P3": C3, ...}`.

    A backbone is a model with `pyramid_outputs`, as KerasHub's, or a model or layer that returns
    such a dict.
    """
    if not hasattr(backbone, "pyramid_outputs"):
        return backbone
    wanted = range(min_level, max_level + 1)
    maps = {level: x for level, x in backbone.pyramid_outputs.items() if int(level[1:]) in wanted}
    return keras.Model(backbone.inputs, maps, name=f"{backbone.name}_pyramid")


def _without_unused_places(boxes, labels):
    """Cuts off the places that no image of the batch uses, where sizes may be found at run time.

    A data set pads every batch to its fullest image, and each place costs as many numbers as there
    are anchors.
    """
    if keras.backend.backend() != "tensorflow" or is_compiled():
        return boxes, labels
    labels = ops.convert_to_tensor(labels)
    places = ops.arange(1, ops.shape(labels)[1] + 1, dtype="int32")
    used = ops.max(ops.where(labels >= 0, places, 0), initial=0)
    return boxes[:, :used], labels[:, :used]
