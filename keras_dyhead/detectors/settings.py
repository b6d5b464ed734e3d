"""Small immutable objects that Keras saves along with a model."""

import dataclasses


class Settings:
    """Base class of the frozen dataclasses that configure a detector, such as its decoder.

    To change a field, replace the object:
    `model.decoder = dataclasses.replace(model.decoder, score_threshold=0.3)`.
    """

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)
