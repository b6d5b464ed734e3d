"""`Augmentation` keeps boxes on their pixels and sizes and colors within their ranges."""

import colorsys
import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.coco import Augmentation
from keras_dyhead.coco.augmentation import augment

HEIGHT, WIDTH = 100, 150
COUNT = 150


@pytest.fixture(scope="module")
def map_of_places():
    """An image with pixel positions in red and green, and a grid of boxes."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    image = np.stack([x, y, np.full_like(x, 255)], axis=-1).astype("float32")
    left, top = (grid.ravel() for grid in np.mgrid[10:WIDTH:20, 10:HEIGHT:20])
    boxes = np.stack([left - 4, top - 5, left + 6, top + 3], axis=-1).astype("float32")
    return image, boxes


def vary(image, boxes, augmentation, canvas, count=COUNT):
    """The results for one image with many seeds: lists of images, boxes and labels."""
    labels = tf.range(len(boxes), dtype="float32")

    def load(number):
        return augment(image, boxes, labels, canvas, augmentation, tf.stack([3, number]))

    dataset = tf.data.Dataset.range(count).map(load)
    examples = [[np.asarray(value) for value in example] for example in dataset]
    return tuple(zip(*examples, strict=True))


EVERY_KIND = {
    "flip": Augmentation(horizontal_flip=1.0, scale=None),
    "zoom": Augmentation(),
    "large-scale jitter": Augmentation(scale=(0.1, 2.0)),
    "sizes": Augmentation(sizes=(40, 72, 110), max_side=120),
    "crop": Augmentation(scale=None, crop=1.0, crop_size=(20, 45), crop_sides=(50, 60)),
    "resize, or resize-crop-resize": Augmentation(
        sizes=(50, 80), crop=0.5, crop_size=(60, 90), crop_sides=None
    ),
}


@pytest.mark.parametrize("name", EVERY_KIND)
def test_boxes_keep_the_same_edge_pixels_as_in_the_file(map_of_places, name):
    image, boxes = map_of_places
    whole = flipped = 0
    for picture, found, labels in zip(
        *vary(image, boxes, EVERY_KIND[name], (90, 130)), strict=True
    ):
        height, width = picture.shape[:2]
        assert height <= 90 and width <= 130
        assert (found >= 0).all() and (found <= [width, height] * 2).all()
        flipped += picture[0, 0, 0] > picture[0, -1, 0]
        # Away from the border, where the shrinking filter averages fewer pixels.
        inside = (found > 2).all(-1) & (found < np.array([width, height] * 2) - 2).all(-1)
        for box, label in zip(found[inside], labels[inside], strict=True):
            expected = boxes[int(label)]
            # Values between pixel centers, computed directly because the picture is linear.
            x = np.interp(box[[0, 2]], np.arange(width) + 0.5, picture[height // 2, :, 0])
            y = np.interp(box[[1, 3]], np.arange(height) + 0.5, picture[:, width // 2, 1])
            np.testing.assert_allclose([min(x), y[0], max(x), y[1]], expected, atol=0.1)
            whole += 1
    assert whole > COUNT
    flip = EVERY_KIND[name].horizontal_flip
    assert abs(flipped / COUNT - flip) <= (0 if flip == 1 else 0.13)  # three deviations


def test_sizes_match_the_published_ones_and_all_of_them_are_drawn(map_of_places):
    """`min(max_side / longer, size / shorter)`, sides rounded to the nearest pixel."""
    image, boxes = map_of_places
    augmentation = Augmentation(sizes=(30, 47, 64, 90), max_side=133)
    pictures, _, _ = vary(image, boxes, augmentation, (100, 140))
    expected = set()
    for size in augmentation.sizes:
        factor = min(133 / WIDTH, size / HEIGHT)
        expected.add((int(HEIGHT * factor + 0.5), int(WIDTH * factor + 0.5)))
    assert {picture.shape[:2] for picture in pictures} == expected
    pictures, _, _ = vary(image, boxes, augmentation, (140, 60), count=20)
    assert {picture.shape[:2] for picture in pictures} == {(30, 45), (40, 60)}  # by the canvas


def test_crops_cover_the_requested_lengths_at_the_drawn_side(map_of_places):
    """At a shorter side of 50, 20 to 40 pixels are 40 to 80 of the file, which is 100 high."""
    image, boxes = map_of_places
    augmentation = Augmentation(
        horizontal_flip=0.0, scale=None, crop=1.0, crop_size=(20, 40), crop_sides=(50,)
    )
    heights, widths, corners = [], [], []
    for picture in vary(image, boxes, augmentation, (200, 200))[0]:
        first, last = picture[0, 0, :2], picture[-1, -1, :2]
        widths.append(last[0] - first[0] + 1)  # enlarging repeats the outermost pixels
        heights.append(last[1] - first[1] + 1)
        corners.append(first - 0.5)
    for lengths in (heights, widths):
        np.testing.assert_allclose([min(lengths), max(lengths)], [40, 80], atol=1.5)
        assert np.std(lengths) == pytest.approx(40 / 12**0.5, rel=0.15)  # uniform
    corners = np.array(corners)
    assert np.allclose(corners, corners.round(), atol=0.01)  # whole pixels
    assert corners.min() == pytest.approx(0, abs=0.01)
    assert np.corrcoef(heights, widths)[0, 1] < 0.3


def test_a_crop_larger_than_the_image_keeps_it_whole(map_of_places):
    image, boxes = map_of_places
    augmentation = Augmentation(horizontal_flip=0.0, scale=None, crop=1.0, crop_sides=None)
    (picture,), (found,), _ = vary(image, boxes, augmentation, (HEIGHT, WIDTH), count=1)
    np.testing.assert_array_equal(picture, image)
    np.testing.assert_array_equal(found, boxes)


def hsv(picture):
    return np.array([colorsys.rgb_to_hsv(*pixel) for pixel in picture.reshape(-1, 3) / 255])


@pytest.fixture(scope="module")
def colors():
    """Colors that keep their hue and are not clipped after a small change."""
    return np.random.default_rng(0).uniform((90, 60, 120), (120, 80, 150), (4, 6, 3))


def varied_colors(colors, **strengths):
    augmentation = Augmentation(horizontal_flip=0.0, scale=None, **strengths)
    box = np.array([[1, 1, 3, 2]], "float32")
    pictures, boxes, _ = vary(colors.astype("float32"), box, augmentation, (4, 6), count=60)
    assert all(np.array_equal(found, box) for found in boxes)
    return pictures


def test_brightness_adds_the_same_number_to_all_values(colors):
    changes = [picture - colors for picture in varied_colors(colors, brightness=0.2)]
    assert max(change.max() - change.min() for change in changes) < 1e-3
    amounts = np.array([change.mean() for change in changes])
    assert -51 < amounts.min() < -40 and 40 < amounts.max() < 51


def test_contrast_multiplies_the_distance_from_the_mean_of_a_channel(colors):
    factors = []
    for picture in varied_colors(colors, contrast=0.4):
        mean = colors.mean((0, 1))
        np.testing.assert_allclose(picture.mean((0, 1)), mean, atol=1e-2)
        ratio = (picture - mean) / (colors - mean)
        factors.append(np.median(ratio))
        np.testing.assert_allclose(picture, mean + factors[-1] * (colors - mean), atol=1e-2)
    assert 0.6 < min(factors) < 0.7 and 1.3 < max(factors) < 1.4


def test_saturation_and_hue_change_nothing_else_according_to_colorsys(colors):
    before = hsv(colors)
    factors, turns = [], []
    for picture in varied_colors(colors, saturation=0.3):
        after = hsv(picture)
        np.testing.assert_allclose(after[:, [0, 2]], before[:, [0, 2]], atol=1e-4)
        factors.append((after[:, 1] / before[:, 1]).mean())
        np.testing.assert_allclose(after[:, 1], before[:, 1] * factors[-1], atol=1e-4)
    for picture in varied_colors(colors, hue=0.1):
        after = hsv(picture)
        np.testing.assert_allclose(after[:, 1:], before[:, 1:], atol=1e-4)
        turn = (after[:, 0] - before[:, 0] + 0.5) % 1 - 0.5
        turns.append(turn.mean())
        np.testing.assert_allclose(turn, turns[-1], atol=1e-4)
    assert 0.7 < min(factors) < 0.8 and 1.2 < max(factors) < 1.3
    assert -0.1 < min(turns) < -0.07 and 0.07 < max(turns) < 0.1


def test_values_stay_within_0_and_255():
    extremes = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 9]]], "float32")
    strong = Augmentation(scale=None, brightness=1.0, contrast=0.9, saturation=0.9, hue=0.5)
    pictures, _, _ = vary(extremes, np.zeros((0, 4), "float32"), strong, (1, 3), count=40)
    assert min(picture.min() for picture in pictures) == 0
    assert max(picture.max() for picture in pictures) == 255


@pytest.mark.parametrize(
    "argument",
    [
        {"horizontal_flip": 1.5},
        {"horizontal_flip": "a"},
        {"scale": (1.2, 0.8)},
        {"scale": (0.0, 0.8)},
        {"sizes": ()},
        {"sizes": (0, 480)},
        {"max_side": 799, "sizes": (480, 800)},
        {"max_side": -1},
        {"crop": -0.1},
        {"crop_size": (600, 384)},
        {"crop_sides": (400, 0)},
        {"brightness": 1.1},
        {"contrast": 1.0},
        {"saturation": -0.1},
        {"hue": 0.6},
        {"mosaic": 2.0},
        {"min_visible": -1.0},
    ],
)
def test_arguments_out_of_range_are_named(argument):
    with pytest.raises(ValueError, match=f"`{next(iter(argument))}` must be .*Received"):
        Augmentation(**argument)


def test_sizes_and_scale_are_mutually_exclusive():
    with pytest.raises(ValueError, match="`sizes` replaces `scale`"):
        Augmentation(sizes=(480,), scale=(0.1, 2.0))


def test_an_augmentation_survives_a_json_file():
    augmentation = Augmentation(sizes=range(480, 801, 32), crop=0.5, hue=0.02)
    again = Augmentation(**json.loads(json.dumps(dataclasses.asdict(augmentation))))
    assert again == augmentation and again.sizes[-1] == 800 and len(again.sizes) == 11
