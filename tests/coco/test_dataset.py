"""Batches of `load_coco`: geometry, order and shapes."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_dyhead.coco import Augmentation, CocoDataset, load_coco
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def draw_rectangles(coco, pixels, boxes):
    """An image with one rectangle of a different pure color per box."""
    for (x, y, w, h), color in zip(boxes, COLORS, strict=False):
        pixels[y : y + h, x : x + w] = color
    image_id = coco.add_image(pixels)
    for number, box in enumerate(boxes):
        coco.add_box(image_id, list(box), coco.categories[number]["id"])


def extent(image, label):
    """The xyxy extent of the pixels closer to the color of a label than to the dark noise."""
    others = [channel for channel in range(3) if channel != label]
    image = np.asarray(image)
    mask = (image[..., label] > 143) & (image[..., others].max(-1) < 143)
    ys, xs = np.nonzero(mask)
    return None if not len(xs) else [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.fixture
def three_colors(coco):
    coco.categories = [{"id": i, "name": name} for i, name in enumerate(["r", "g", "b"])]
    return coco


def test_boxes_enclose_their_pixels_exactly_after_resizing(three_colors, noise):
    sizes, drawn = [(40, 90), (97, 51), (200, 180), (33, 33)], []
    for height, width in sizes:
        drawn.append([(2, 3, 12, 9), (width - 14, height - 17, 14, 17), (15, 0, 8, 20)])
        draw_rectangles(three_colors, noise(height, width), drawn[-1])
    ((images, targets),) = load_coco(three_colors.folder, three_colors.write(), image_size=(64, 96))
    assert targets["original_size"].numpy().tolist() == list(map(list, sizes))
    for image, found, scale, (height, width), boxes in zip(
        images, targets["boxes"].numpy(), targets["scale"].numpy(), sizes, drawn, strict=True
    ):
        fit = min(64 / height, 96 / width)
        resized = int(height * fit + 0.5) / height, int(width * fit + 0.5) / width
        np.testing.assert_allclose(scale, resized, rtol=1e-6)
        for label, (box, (x, y, w, h)) in enumerate(zip(found, boxes, strict=True)):
            expected = np.array([x, y, x + w, y + h]) * np.tile(scale[::-1], 2)
            np.testing.assert_allclose(box, expected, rtol=1e-6)
            np.testing.assert_allclose(box, extent(image, label), atol=1.0)


def test_flips_move_pixels_and_boxes_exactly(coco, noise):
    pixels = noise(32, 48)
    coco.add_box(coco.add_image(pixels), [3, 4, 10, 20])
    coco.write()
    ((images, targets),) = load_coco(
        coco.folder,
        coco.json,
        image_size=(40, 48),
        training=True,
        augmentation=Augmentation(horizontal_flip=1.0, scale=None),
    )
    np.testing.assert_array_equal(images[0, :32], pixels[:, ::-1])
    np.testing.assert_array_equal(images[0, 32:], 0)
    np.testing.assert_array_equal(targets["boxes"][0], [[35, 4, 45, 24]])


def test_a_box_is_dropped_when_less_than_min_visible_of_it_is_left(coco, noise):
    """At zoom 2, the window shows half of each side. The whole image is one box."""
    coco.add_box(coco.add_image(noise(40, 40)), [0, 0, 40, 40])
    coco.write()
    for min_visible, kept in ((0.24, True), (0.26, False)):
        ((_, targets),) = load_coco(
            coco.folder,
            coco.json,
            image_size=(40, 40),
            training=True,
            augmentation=Augmentation(scale=(2, 2), min_visible=min_visible),
        )
        expected = [0, 0, 40, 40] if kept else [-1] * 4
        np.testing.assert_array_equal(targets["boxes"][0, 0], expected)
        assert targets["labels"][0, 0] == (0 if kept else -1)


@pytest.mark.parametrize("canvas", [(60, 75), (11, 14)])
def test_resizing_agrees_with_pillow_and_the_rest_is_zero(coco, noise, canvas):
    """Pillow is also bilinear with half-pixel centers, and antialiased when shrinking."""
    pixels = noise(20, 30)
    coco.add_image(pixels)
    ((images, targets),) = load_coco(coco.folder, coco.write(), image_size=canvas)
    height, width = {60: (50, 75), 11: (9, 14)}[canvas[0]]
    for channel in range(3):
        plane = Image.fromarray(pixels[..., channel].astype("float32"))
        expected = plane.resize((width, height), Image.BILINEAR)
        np.testing.assert_allclose(images[0, :height, :, channel], expected, atol=1e-3)
    np.testing.assert_array_equal(images[0, height:], 0)
    np.testing.assert_allclose(targets["scale"][0], [height / 20, width / 30], rtol=1e-6)


def test_batches_match_the_models_own_preprocessor(coco, noise):
    sizes = [(20, 31), (64, 40), (33, 65)]
    for size in sizes:
        coco.add_image(noise(*size))
    preprocessor = DetectionPreprocessor(
        image_size=(32, 48), channel_order="BGR", resizing="opencv"
    )
    ((images, targets),) = load_coco(
        coco.folder, coco.write(), image_size=(32, 48), preprocessor=preprocessor
    )
    expected = preprocessor([tf.constant(noise(*size)) for size in sizes])
    np.testing.assert_array_equal(images, expected["images"])
    np.testing.assert_allclose(targets["scale"], expected["scales"], rtol=1e-6)


@pytest.mark.parametrize("opened", [load_coco, CocoDataset])
def test_larger_images_in_detection_than_in_training_warn(coco, noise, opened):
    """A model without `image_shape` resizes them to a shorter side of 800 pixels."""
    coco.add_image(noise(20, 30))
    later = DetectionPreprocessor(min_side=80, max_side=160)
    data = coco.folder, coco.write()
    options = {"training": True, "preprocessor": later, "drop_remainder": False}
    with pytest.warns(UserWarning, match=r"fit \(32, 32\) in training, but .* 3.8 times as large"):
        opened(*data, image_size=(32, 32), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(*data, image_size=(90, 110), **options)
        fitted = {**options, "preprocessor": DetectionPreprocessor((32, 32))}
        opened(*data, image_size=(32, 32), **fitted)
        opened(*data, image_size=(32, 32), **{**options, "training": False})


def test_normalization_comes_before_the_padding(coco, noise):
    class Preprocessor:
        def normalize(self, images):
            return (images[..., ::-1] - 100.0) / 50.0

    pixels = noise(20, 32)
    coco.add_image(pixels)
    coco.write()
    for training in (False, True):
        ((images, _),) = load_coco(
            coco.folder,
            coco.json,
            image_size=(32, 32),
            training=training,
            preprocessor=Preprocessor(),
            augmentation=None,
        )
        expected = (pixels[..., ::-1].astype("float32") - 100) / 50
        np.testing.assert_allclose(images[0, :20], expected, atol=1e-6)
        np.testing.assert_array_equal(images[0, 20:], 0)


def numbered(coco, count, boxes_per_image=(2, 0, 1)):
    """Images whose gray value is ten times their index."""
    for i in range(count):
        image_id = coco.add_image(np.full((16, 16, 3), 10 * i, "uint8"))
        for k in range(boxes_per_image[i % len(boxes_per_image)]):
            coco.add_box(image_id, [k, 1, 4 + k, 5])
    return coco.write()


def test_batches_have_one_shape_a_smaller_last_batch_and_a_known_number(coco):
    path = numbered(coco, 5)
    dataset = load_coco(coco.folder, path, batch_size=2, image_size=(16, 16))
    assert int(dataset.cardinality()) == 3
    images, targets = dataset.element_spec
    assert images.shape.as_list() == [None, 16, 16, 3] and images.dtype == "float32"
    assert targets["boxes"].shape.as_list() == [None, 2, 4] and targets["boxes"].dtype == "float32"
    assert targets["labels"].shape.as_list() == [None, 2]
    assert targets["image_id"].dtype == "int64"
    assert [len(images) for images, _ in dataset] == [2, 2, 1]
    # Images without boxes are included, with padding only.
    labels = np.concatenate([targets["labels"] for _, targets in dataset])
    assert labels.tolist() == [[0, 0], [-1, -1], [0, -1], [0, 0], [-1, -1]]
    boxes = np.concatenate([targets["boxes"] for _, targets in dataset])
    assert (boxes[labels < 0] == -1).all() and (boxes[labels >= 0] >= 0).all()

    training = load_coco(coco.folder, path, batch_size=2, training=True, drop_remainder=True)
    assert int(training.cardinality()) == 2
    assert sorted(training.element_spec[1]) == ["boxes", "labels"]
    assert training.element_spec[0].shape[0] == 2
    assert training.class_names == ["dog", "cat"]


def test_a_data_set_without_boxes_still_has_dense_targets(coco):
    path = numbered(coco, 2, boxes_per_image=(0,))
    ((_, targets),) = load_coco(coco.folder, path, training=True)
    assert targets["boxes"].numpy().tolist() == [[[-1] * 4]] * 2


def test_max_boxes_keeps_the_largest(coco, noise):
    image_id = coco.add_image(noise(20, 20))
    for side in (3, 9, 1, 7):
        coco.add_box(image_id, [0, 0, side, side])
    ((_, targets),) = load_coco(coco.folder, coco.write(), image_size=(20, 20), max_boxes=2)
    assert targets["boxes"].numpy().tolist() == [[[0, 0, 9, 9], [0, 0, 7, 7]]]


def epochs(dataset, count):
    return [[np.asarray(images) for images, _ in dataset] for _ in range(count)]


def test_training_order_changes_each_epoch_and_depends_on_the_seed(coco):
    """Without a seed, it depends on `keras.utils.set_random_seed`."""
    path = numbered(coco, 8)

    def load(seed):
        return load_coco(coco.folder, path, 8, (16, 16), training=True, seed=seed)

    keras.utils.set_random_seed(3)
    (first,), (second,) = epochs(load(None), 2)
    keras.utils.set_random_seed(3)
    ((again,),) = epochs(load(None), 1)
    ((other,),) = epochs(load(2), 1)
    np.testing.assert_array_equal(first, again)
    order = [images[:, 0, 0, 0].round().tolist() for images in (first, second, other)]
    assert order[0] != order[1] and order[0] != order[2]
    assert sorted(order[0]) == sorted(order[1]) == [10.0 * i for i in range(8)]


def test_noise_alone_changes_each_epoch(coco, noise):
    coco.add_image(noise(16, 16))
    dataset = load_coco(coco.folder, coco.write(), image_size=(16, 16), training=True, seed=0)
    first, second = epochs(dataset, 2)
    assert np.abs(first[0] - second[0]).max() > 1


def test_evaluation_keeps_the_order_of_the_file(coco):
    path = numbered(coco, 6)
    dataset = load_coco(coco.folder, path, batch_size=4, image_size=(16, 16))
    ids = np.concatenate([targets["image_id"] for _, targets in dataset])
    grays = np.concatenate([images[:, 0, 0, 0] for images, _ in dataset])
    assert ids.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(grays, 10 * (ids - 1))


def test_images_are_read_while_iterating(coco):
    """A file deleted after opening fails only when its batch is requested."""
    path = numbered(coco, 25)
    dataset = load_coco(coco.folder, path, batch_size=1, image_size=(16, 16))
    (coco.folder / "25.png").unlink()
    iterator = iter(dataset)
    assert next(iterator)[1]["image_id"].numpy() == [1]
    with pytest.raises(tf.errors.InvalidArgumentError, match="25.png"):
        list(iterator)


def test_training_continues_without_a_broken_file(coco):
    path = numbered(coco, 3)
    (coco.folder / "2.png").write_text("not a picture")
    with pytest.raises(ValueError, match="2.png"):
        load_coco(coco.folder, path, training=True)
    with pytest.warns(UserWarning, match="2.png"):
        dataset = load_coco(coco.folder, path, 1, (16, 16), training=True, on_error="skip")
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    history = model.fit(dataset.map(lambda x, y: (x / 255, y["labels"][:, :1])), verbose=0)
    assert int(dataset.cardinality()) == 2 and np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize(
    "argument",
    [
        {"batch_size": 0},
        {"image_size": (0, 16)},
        {"image_size": 16},
        {"image_size": (16.5, 16)},
        {"image_size": (16, 16, 3)},
        {"preprocessor": 3},
        {"augmentation": 3},
        {"image_size": ()},
        {"image_size": ((16, 16), (16, 0))},
        {"image_size": ((16, 16), (16, 16))},
        {"max_boxes": 0},
        {"batch_size": 2.0},
        {"max_boxes": "3"},
        {"initial_step": 0.5},
        {"seed": 1.5},
        {"initial_epoch": -1},
        {"initial_step": -1},
        {"initial_step": 1},
    ],
)
def test_arguments_out_of_range_are_named(coco, argument):
    path = numbered(coco, 1)
    with pytest.raises(ValueError, match=f"`{next(iter(argument))}` must be"):
        load_coco(coco.folder, path, training=True, **argument)
