"""Trains ATSS with DyHead and a KerasHub backbone, with the normalization of its preset.

    python examples/keras_hub_backbone.py --preset resnet_50_imagenet --images photos \
        --annotations photos.json --out mine.keras

A preset is a name from KerasHub, which is downloaded, or a local folder. Any
`FeaturePyramidBackbone` works: ResNet, EfficientNet, MobileNet, CSPDarkNet, MiT and others.
"""

import argparse
from pathlib import Path

import keras
import keras_hub
import numpy as np

from keras_dyhead.coco import load_coco
from keras_dyhead.detectors import ATSS, DetectionPreprocessor
from keras_dyhead.layers import DyHeadNeck


def preset_preprocessor(preset, image_size):
    """Returns a preprocessor that normalizes like the preset's image converter.

    The converter computes `pixel * scale + offset`, the preprocessor `(pixel - mean) / std`.
    """
    converter = keras_hub.layers.ImageConverter.from_preset(preset)
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    scale, offset = (np.broadcast_to(value, 3).astype(float) for value in (scale, offset))
    return DetectionPreprocessor(image_size, mean=-offset / scale, std=1 / scale)


def main():
    """Builds, trains and saves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="resnet_50_imagenet", help="preset name or folder")
    parser.add_argument("--images", required=True, help="folder of your images")
    parser.add_argument("--annotations", required=True, help="their COCO JSON file")
    parser.add_argument("--out", required=True, help=".keras file to write")
    parser.add_argument("--image-size", type=int, default=512)
    parser.add_argument("--num-blocks", type=int, default=6, help="DyHead blocks")
    parser.add_argument("--channels", type=int, default=256, help="of pyramid, DyHead and head")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    if not args.out.endswith(".keras"):
        parser.error(f"--out must end in .keras. Received: {args.out}")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)

    size = (args.image_size, args.image_size)
    preprocessor = preset_preprocessor(args.preset, size)
    dataset = load_coco(
        args.images, args.annotations, args.batch_size, size, True, preprocessor=preprocessor
    )
    backbone = keras_hub.models.Backbone.from_preset(args.preset)
    print(f"{type(backbone).__name__} with {', '.join(backbone.pyramid_outputs)}")
    model = ATSS(
        backbone,
        num_classes=len(dataset.class_names),
        neck=DyHeadNeck(args.num_blocks, args.channels),
        preprocessor=preprocessor,
        class_names=dataset.class_names,
    )
    model.compile(keras.optimizers.AdamW(1e-4, weight_decay=1e-4, global_clipnorm=10.0))
    model.fit(dataset, epochs=args.epochs, verbose=2)
    model.save(args.out)
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
