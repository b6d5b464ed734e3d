"""Small immutable objects that Keras saves along with a model."""

import dataclasses


class Settings:
    """Base of the frozen dataclasses a detector is made of: anchors, assigner, decoder.

    Their fields are their configuration. To change one, replace the object:
    `model.decoder = dataclasses.replace(model.decoder, score_threshold=0.3)`.
    """

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)
