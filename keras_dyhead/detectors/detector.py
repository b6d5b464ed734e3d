"""The training and prediction loop all detectors share."""

import inspect

import keras
import numpy as np
from keras import ops

from keras_dyhead.detectors.losses import num_replicas
from keras_dyhead.detectors.pyramid_layout import known_sizes, sizes_that_fit


class Detector(keras.Model):
    """A `keras.Model` that trains on boxes and predicts detections.

    A subclass builds its functional graph from preprocessed images to raw outputs, names its
    losses in `loss_names`, and implements `compute_losses` and `decode`. It keeps these
    attributes: `preprocessor`, `image_shape`, `min_level`, `max_level`, and `locations_per_cell`
    (rows of raw output for every pixel of a pyramid level).

    Training data are `(images, targets)` batches: preprocessed images `(B, H, W, 3)` and a dict
    with `"boxes"` `(B, N, 4)`, xyxy pixels of those images, and `"labels"` `(B, N)`, padded with
    -1. Further entries of the dict are ignored. Images without objects train the background.

    Under a `tf.distribute` strategy losses are normalised by the positives of all replicas: one
    step equals the step of a single device on the whole batch.

    Every constructor argument is an attribute of the same name, from which `get_config` saves it.
    """

    loss_names = ("class_loss", "box_loss")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loss_trackers = {name: keras.metrics.Mean(name=name) for name in self.loss_names}
        self.jit_compile = False  # until `compile` says otherwise; compiling predict takes minutes

    def compute_losses(self, raw, boxes, labels):
        """Returns a scalar for each of `loss_names`.

        Args:
            raw: Dict of raw outputs.
            boxes: `(B, N, 4)` float32, N >= 1.
            labels: `(B, N)` int32, -1 where padded.
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
        arguments = set(inspect.signature(type(self).__init__).parameters)
        config = {
            name: keras.saving.serialize_keras_object(getattr(self, name))
            for name in arguments - {"self", "dtype", "kwargs"}
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
        losses = self.compute_losses(y_pred, boxes, labels)
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

    def predict_step(self, *args):
        """Predicts the detections of a batch, clipped to the batch's height and width."""
        outputs = super().predict_step(*args)
        images = keras.utils.unpack_x_y_sample_weight(args[-1])[0]
        canvas = ops.stack(ops.shape(images)[1:3])[None]
        if keras.backend.backend() == "jax":  # whose step also hands on the model's state
            raw, state = outputs
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
