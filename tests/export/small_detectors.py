"""A small detector, pictures of different sizes, and its detections outside any graph."""

import keras
import numpy as np
from detectors.scenes import CLASSES, SMALL
from PIL import Image

from keras_dyhead.coco.image_files import read_rgb
from keras_dyhead.detectors import DetectionDecoder, DetectionPreprocessor


def small_retinanet(num_blocks=0, **arguments):
    return small_detector("retinanet", num_blocks, **arguments)


def small_detector(name, num_blocks=0, **arguments):
    """An untrained detector, except that its class scores are far apart."""
    keras.utils.set_random_seed(1)
    small = SMALL[name]
    defaults = {
        **small.parts(num_blocks, max_level=4),
        "decoder": DetectionDecoder(score_threshold=0.0, max_detections=20),
        "preprocessor": DetectionPreprocessor(min_side=48, max_side=80, pad_multiple=32),
        **small.arguments,
    }
    model = small.detector(two_level_backbone(), CLASSES, **defaults | arguments)
    class_kernel = small.class_layer(model).kernel
    class_kernel.assign(30 * class_kernel)
    return model


def two_level_backbone():
    images = x = keras.Input((None, None, 3))
    maps = {}
    for level, strides in [("P3", 8), ("P4", 2)]:
        maps[level] = x = keras.layers.Conv2D(16, 9, strides, "same", activation="relu")(x)
    return keras.Model(images, maps)


def pictures(folder):
    """A JPEG, a PNG and a gray PNG of different sizes; their paths and pixels as decoded."""
    rng, paths = np.random.default_rng(0), []
    for name, size in [("a.jpg", (90, 60)), ("b.png", (40, 100)), ("gray.png", (64, 64))]:
        image = Image.fromarray(rng.integers(0, 256, (7, 9, 3), "uint8")).resize(size)
        image = image.convert("L") if name == "gray.png" else image
        image.save(folder / name)
        paths.append(str(folder / name))
    return paths, [read_rgb(path) for path in paths]


def by_hand(model, image, preprocessor=None):
    """Preprocesses, predicts and maps one image's boxes back, outside any graph."""
    batch = (preprocessor or model.preprocessor)(image[None])
    out = {
        k: np.array(v)
        for k, v in model.decode(model(batch["images"]), batch["image_sizes"]).items()
    }
    height, width = np.asarray(batch["scales"])[0]
    out["boxes"] /= [width, height, width, height]
    return out


def assert_same(out, expected):
    """Compares the detections of one image, sorted by score: equally many and close."""
    assert out["num_detections"] == expected["num_detections"][0] == 20
    np.testing.assert_allclose(out["confidence"], expected["confidence"][0], atol=1e-5)
    np.testing.assert_array_equal(out["labels"], expected["labels"][0])
    np.testing.assert_allclose(out["boxes"], expected["boxes"][0], atol=0.01)
