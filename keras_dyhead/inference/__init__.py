"""Detection in images of any size: one view, several views, tiles, and pseudo labels."""

from keras_dyhead.coco.image_files import read_rgb
from keras_dyhead.inference.one_image import detect_images, image_detector
from keras_dyhead.inference.pseudo_labels import PseudoLabels
from keras_dyhead.inference.several_views import TestTimeAugmentation
from keras_dyhead.inference.tiles import Tiles

__all__ = [
    "PseudoLabels",
    "TestTimeAugmentation",
    "Tiles",
    "detect_images",
    "image_detector",
    "read_rgb",
]
