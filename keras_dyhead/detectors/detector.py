"""What all detectors share: backbone, pyramid and DyHead, and the training and prediction loop."""

import inspect
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_dyhead.detectors.decoding import DetectionDecoder
from keras_dyhead.detectors.losses import num_replicas
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor
from keras_dyhead.detectors.pyramid_layout import known_sizes, sizes_that_fit
from keras_dyhead.detectors.replicas import logs_to_average, sum_gradients_first
from keras_dyhead.layers.dyhead_neck import DyHeadNeck
from keras_dyhead.layers.feature_pyramid import FeaturePyramid


class Detector(keras.Model):
    """A `keras.Model` that trains on boxes and predicts detections.

    Backbone, feature pyramid, DyHead and head make the functional graph from preprocessed images
    to raw outputs. A subclass brings the head, names its losses in `loss_names`, and implements
    `compute_losses` and `decode`.

    Training data are `(images, targets)` batches: preprocessed images `(B, H, W, 3)` and a dict
    with `"boxes"` `(B, N, 4)`, xyxy pixels of those images, and `"labels"` `(B, N)`, padded with
    -1. Further entries of the dict are ignored. Images without objects train the background.

    Under a `tf.distribute` strategy losses are normalised by the positives of all replicas: one
    step equals the step of a single device on the whole batch.

    Every constructor argument is an attribute of the same name, from which `get_config` saves it;
    a subclass may replace `head` by arguments of its own and hand on the others.

    Args:
        backbone: A model with `pyramid_outputs`, such as a KerasHub `FeaturePyramidBackbone`, or a
            model or layer that maps images to a dict `{"P3": C3, ...}` of maps.
        head: Layer from the pyramid to the raw outputs.
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
        use_spatial_attention: bool. As in `DyHeadNeck`, like the next three; the first three
            switch parts of DyHead off to measure what they contribute. Defaults to `True`.
        use_scale_attention: bool. Defaults to `True`.
        use_task_attention: bool. Defaults to `True`.
        use_bias: bool. Whether DyHead's deformable convolutions have a bias. Defaults to `True`.
        output_gain: float. Factor of DyHead's outputs, as in `DyHeadNeck`. Defaults to 1.
        decoder: Defaults to `DetectionDecoder()`.
        preprocessor: Defaults to a `DetectionPreprocessor` for `image_shape`.
        class_names: Names of the labels, for those who read detections; saved along. Defaults to
            `None`.
        dtype: Policy of the layers above the backbone. Defaults to the global policy.
        **kwargs: `name` and `trainable`.
    """

    loss_names = ("class_loss", "box_loss")
    locations_per_cell = 1  # rows of raw output for every pixel of a pyramid level

    def __init__(
        self,
        backbone,
        head: keras.layers.Layer,
        num_blocks: int = 6,
        channels: int = 256,
        alignment: str = "paper",
        image_shape=(None, None, 3),
        min_level: int = 3,
        max_level: int = 7,
        extra_levels: str = "on_output",
        relu_before_extra_convs: bool = False,
        use_spatial_attention: bool = True,
        use_scale_attention: bool = True,
        use_task_attention: bool = True,
        use_bias: bool = True,
        output_gain: float = 1.0,
        decoder: DetectionDecoder | None = None,
        preprocessor: DetectionPreprocessor | None = None,
        class_names: Sequence[str] | None = None,
        dtype=None,
        **kwargs,
    ):
        dtype = keras.dtype_policies.get(dtype)
        image_shape = tuple(image_shape)
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
            pyramid = DyHeadNeck(
                num_blocks,
                channels,
                alignment,
                use_spatial_attention,
                use_scale_attention,
                use_task_attention,
                use_bias,
                output_gain,
                dtype=dtype,
                name="dyhead",
            )(pyramid)
        super().__init__(inputs=images, outputs=head(pyramid), **kwargs)

        self.backbone = backbone
        self.num_blocks = num_blocks
        self.channels = channels
        self.alignment = alignment
        self.image_shape = image_shape
        self.min_level = min_level
        self.max_level = max_level
        self.extra_levels = extra_levels
        self.relu_before_extra_convs = relu_before_extra_convs
        self.use_spatial_attention = use_spatial_attention
        self.use_scale_attention = use_scale_attention
        self.use_task_attention = use_task_attention
        self.use_bias = use_bias
        self.output_gain = output_gain
        self.decoder = decoder or DetectionDecoder()
        self.preprocessor = preprocessor or DetectionPreprocessor.for_shape(image_shape, max_level)
        self.class_names = None if class_names is None else tuple(class_names)
        self.dtype_policy = dtype
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in self.loss_names}
        self.jit_compile = False  # until `compile` says otherwise; compiling predict takes minutes

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

    def compile(self, optimizer=None, jit_compile=False, **kwargs):
        """Configures the model for training.

        Args:
            optimizer: Defaults to AdamW with learning rate 1e-4, weight decay 1e-4 and gradients
                clipped to a global norm of 10.
            jit_compile: bool. Compile steps with XLA: a faster step for minutes of compilation,
                once per image size. Defaults to `False`.
            **kwargs: Further arguments of `keras.Model.compile`; the losses are built in.
        """
        if optimizer is None:
            optimizer = keras.optimizers.AdamW(1e-4, weight_decay=1e-4, global_clipnorm=10.0)
        if kwargs.get("loss") is not None:
            raise ValueError(
                f"{type(self).__name__} brings its own losses. Received: loss={kwargs['loss']!r}"
            )
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

    def get_config(self):
        """Returns the arguments of the constructor, serialized."""
        arguments = {
            name
            for cls in type(self).__mro__
            if issubclass(cls, Detector)
            for name in inspect.signature(cls.__init__).parameters
        }
        config = {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in sorted(arguments - {"self", "head", "dtype", "kwargs"})
        }
        dtype = keras.dtype_policies.serialize(self.dtype_policy)
        return config | {"dtype": dtype, "name": self.name, "trainable": self.trainable}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Creates the model from `get_config`."""
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects))

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
        # One padded place more, so that there is one even where no image has objects.
        boxes = ops.pad(ops.cast(y["boxes"], "float32"), ((0, 0), (0, 1), (0, 0)))
        labels = ops.pad(ops.cast(y["labels"], "int32"), ((0, 0), (0, 1)), constant_values=-1)
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
        return sizes_that_fit(num_cells, canvases, range(self.min_level, self.max_level + 1))


def backbone_pyramid(backbone, min_level: int, max_level: int):
    """Returns a callable from images to the backbone's maps as a dict `{"P3": C3, ...}`.

    Args:
        backbone: A model with `pyramid_outputs`, as KerasHub's backbones, or a model or layer
            that returns such a dict.
        min_level: int. Finest level wanted.
        max_level: int. Coarsest level wanted.
    """
    if not hasattr(backbone, "pyramid_outputs"):
        return backbone
    wanted = range(min_level, max_level + 1)
    maps = {level: x for level, x in backbone.pyramid_outputs.items() if int(level[1:]) in wanted}
    return keras.Model(backbone.inputs, maps, name=f"{backbone.name}_pyramid")
