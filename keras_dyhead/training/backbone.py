"""Builds the backbone that the training settings describe."""

from collections.abc import Mapping

import keras
import keras_hub

from keras_dyhead.backbones import BACKBONES, ResNetBackbone, SwinBackbone
from keras_dyhead.checkpoints import load_backbone_weights
from keras_dyhead.training.settings import TrainingSettings

_CLASSES = {"ResNetBackbone": ResNetBackbone, "SwinBackbone": SwinBackbone}


def small_backbone(
    image_shape: tuple[int | None, int | None, int], dtype: str | None = None
) -> keras.Model:
    """Builds the smallest backbone, KerasHub's `ResNetBackbone` with one block per stage."""
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[16],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64, 96, 128],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block_vd",
        image_shape=image_shape,
        dtype=dtype,
    )


def build_backbone(
    settings: TrainingSettings, image_shape: tuple[int | None, int | None, int]
) -> keras.Model:
    """Builds the backbone of resolved settings for preprocessed images of shape `image_shape`.

    Raises:
        ValueError: If the backbone is unknown, or its weights are missing or cannot be used.
    """
    backbone, weights = settings.backbone, settings.backbone_weights
    if isinstance(backbone, Mapping):
        arguments = dict(backbone)
        name = arguments.pop("class", "ResNetBackbone")
        if name not in _CLASSES:
            raise ValueError(
                f"The class of `backbone` must be one of {list(_CLASSES)}. Received: {name!r}"
            )
        keeps_statistics = arguments.get("batch_norm") != "train"
        if weights is None and name == "ResNetBackbone" and keeps_statistics:
            raise ValueError(
                "A backbone with fixed batch normalization statistics needs trained weights: "
                "`backbone_weights` must be a PyTorch checkpoint. Received: "
                f"backbone={backbone}, backbone_weights=None"
            )
        cls = _CLASSES[name]
    elif backbone in BACKBONES:
        cls, arguments = BACKBONES[backbone]
        if weights is None and cls is ResNetBackbone:
            arguments = {**arguments, "batch_norm": "train"}
    elif weights is not None:
        raise ValueError(
            "`backbone_weights` require a backbone of `keras_dyhead.backbones`. "
            f"Received: backbone={backbone!r}, backbone_weights={weights!r}"
        )
    elif backbone == "small":
        return small_backbone(image_shape, settings.dtype)
    else:
        try:
            return keras_hub.models.Backbone.from_preset(backbone, dtype=settings.dtype)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"`backbone` must be one of {['small', *BACKBONES]} or a KerasHub preset. "
                f"Received: backbone={backbone!r}, which KerasHub could not load: {error}"
            ) from error
    model = cls(**arguments, image_shape=image_shape, dtype=settings.dtype)
    return model if weights is None else load_backbone_weights(model, weights)
