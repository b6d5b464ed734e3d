"""Which layers inside a layer do not train, kept where it is saved.

Keras keeps `trainable` of the layers in a functional graph. Of layers that a layer or a model makes
in its constructor it knows nothing: they all train again after loading, and the optimizer's state,
which then has another length, is dropped.
"""

import collections
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping

import keras


class CompositeLayer(keras.layers.Layer):
    """A layer of layers, which keeps those frozen that are.

    `trainable=False` in the constructor freezes all of them. What is set later, on the layer or on
    any layer inside, is saved with the shapes that Keras builds the layer from.
    """

    def get_build_config(self):
        """Returns what `build_from_config` needs."""
        config = super().get_build_config()
        return None if config is None else {**config, "frozen": frozen_layers(self)}

    def build_from_config(self, config):
        """Builds the layer, and freezes what was frozen."""
        super().build_from_config(config)
        freeze_layers(self, config.get("frozen", ()))

    def _post_build(self):
        super()._post_build()
        if not self.trainable:  # what the constructor was told reaches the layers made since
            for inside in self._layers:
                inside.trainable = False


def frozen_layers(layer: keras.Layer) -> list[str]:
    """Returns the paths of all layers inside a built layer or model that have `trainable=False`.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="first")])
    >>> model.get_layer("first").trainable = False
    >>> frozen_layers(model)
    ['first']
    """
    return [path for path, inside in _walk(layer, "", set()) if not inside.trainable]


def freeze_layers(layer: keras.Layer, paths: Iterable[str]) -> None:
    """Has the layers of these paths not train, and all others inside train.

    Paths of layers that are not there, such as a teacher that was only hung on a student, are
    warned of.
    """
    inside = dict(_walk(layer, "", set()))
    unknown = [path for path in paths if path not in inside]
    if unknown:
        warnings.warn(f"{layer.name} has no such layers to freeze: {unknown}", stacklevel=3)
    for path, sublayer in inside.items():
        # Keras' setter would pass it on to what is inside, where it may be another.
        sublayer._trainable = path not in paths
        for variable in sublayer._trainable_variables:
            variable.trainable = sublayer._trainable


def with_frozen_layers(cls, config: Mapping):
    """Builds a model from what its `get_config` returns, with `frozen_layers` as `"frozen"`."""
    model = cls(**{name: value for name, value in config.items() if name != "frozen"})
    freeze_layers(model, config.get("frozen", ()))
    return model


def _walk(layer: keras.Layer, prefix: str, seen: set) -> Iterator[tuple[str, keras.Layer]]:
    """Yields each layer inside once, by the names of those around it.

    Names that Keras made up differ from model to model: they are counted anew.
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
