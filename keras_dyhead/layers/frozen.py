"""Saves which layers inside a layer or model are frozen.

Keras saves `trainable` for the layers of a functional graph, but not for layers that another layer
or a model creates in its constructor. After loading, those would all train again, and the state of
the optimizer, which then has a different length, would be dropped.
"""

import collections
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping

import keras
from keras.saving import deserialize_keras_object


class CompositeLayer(keras.layers.Layer):
    """A layer that contains layers and saves which of them are frozen.

    `trainable=False` in the constructor freezes all of them. Later changes, to the layer or to any
    layer inside, are saved together with the shapes that Keras builds the layer from.
    """

    def get_build_config(self):
        config = super().get_build_config()
        return None if config is None else {**config, "frozen": frozen_layers(self)}

    def build_from_config(self, config):
        super().build_from_config(config)
        freeze_layers(self, config.get("frozen", ()))

    def _post_build(self):
        super()._post_build()
        if not self.trainable:  # also for layers created after the constructor
            for inside in self._layers:
                inside.trainable = False


class CompositeModel(keras.Model):
    """A functional model of images that saves which of its layers are frozen."""

    def get_config(self):
        return {
            "image_shape": self.image_shape,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "name": self.name,
            "trainable": self.trainable,
            "frozen": frozen_layers(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return with_frozen_layers(cls, deserialize_keras_object(config, custom_objects))


def frozen_layers(layer: keras.Layer) -> list[str]:
    """Returns the paths of all layers with `trainable=False` inside a built layer or model.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="first")])
    >>> model.get_layer("first").trainable = False
    >>> frozen_layers(model)
    ['first']
    """
    return [path for path, inside in _walk(layer, "", set()) if not inside.trainable]


def freeze_layers(layer: keras.Layer, paths: Iterable[str]) -> None:
    """Freezes the layers at these paths, and unfreezes all others inside `layer`.

    Warns about paths that do not exist, such as that of a teacher attached to a student.
    """
    inside = dict(_walk(layer, "", set()))
    unknown = [path for path in paths if path not in inside]
    if unknown:
        warnings.warn(f"{layer.name} has no such layers to freeze: {unknown}", stacklevel=3)
    for path, sublayer in inside.items():
        # Keras' setter would also change the layers inside, whose state may differ.
        sublayer._trainable = path not in paths
        for variable in sublayer._trainable_variables:
            variable.trainable = sublayer._trainable


def with_frozen_layers(cls, config: Mapping):
    """Builds a model from its config, whose `"frozen"` is the result of `frozen_layers`."""
    model = cls(**{name: value for name, value in config.items() if name != "frozen"})
    freeze_layers(model, config.get("frozen", ()))
    return model


def _walk(layer: keras.Layer, prefix: str, seen: set) -> Iterator[tuple[str, keras.Layer]]:
    """Yields each layer inside once, with its path of layer names.

    Names that Keras generates differ from model to model, so they are numbered again here.
    """
    counts = collections.Counter()
    for inside in layer._layers:
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(inside).__name__).lower()
        plain = re.sub(r"[\d_]", "", inside.name)
        name = kind if plain == re.sub(r"[\d_]", "", kind) else inside.name
        counts[name] += 1
        if counts[name] > 1:
            name = f"{name}_{counts[name] - 1}"
        if id(inside) not in seen:
            seen.add(id(inside))
            yield prefix + name, inside
            yield from _walk(inside, f"{prefix}{name}/", seen)
