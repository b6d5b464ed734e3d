"""Mosaics: four images with their boxes around a point."""

import numpy as np
import pytest
from coco.conftest import CocoFolder

from keras_dyhead.coco import Augmentation, CocoAnnotations, load_coco

COUNT, CANVAS = 10, (96, 128)
MOSAIC = Augmentation(mosaic=1.0, scale=(1.1, 1.3))  # every image fills its part


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Images with pixel positions in red and green, and their number in blue and as class."""
    coco = CocoFolder(tmp_path_factory.mktemp("places"))
    coco.categories = [{"id": number + 1, "name": f"of {number}"} for number in range(COUNT)]
    for number in range(COUNT):
        height, width = 60 + 2 * number, 100 - 3 * number
        y, x = np.mgrid[:height, :width]
        image = np.stack([x, y, np.full_like(x, 20 * number + 20)], axis=-1).astype("uint8")
        image_id = coco.add_image(image)
        for left in range(4, width - 12, 14):
            for top in range(3, height - 12, 13):
                coco.add_box(image_id, [left, top, 9, 8], category_id=number + 1)
    return coco.folder, CocoAnnotations(coco.write(), coco.folder)


def load(data, augmentation=MOSAIC, batch_size=COUNT, **options):
    form = {"training": True, "augmentation": augmentation, "seed": 3} | options
    return load_coco(*data, batch_size, CANVAS, **form)


def examples(dataset, epochs):
    """Images with their boxes and labels, without padding."""
    for _ in range(epochs):
        for images, targets in dataset:
            for image, boxes, labels in zip(
                images.numpy(), targets["boxes"].numpy(), targets["labels"].numpy(), strict=True
            ):
                yield image, boxes[labels >= 0], labels[labels >= 0].astype(int)


def part_numbers(image):
    """The image number of each pixel, which is not an integer at seams."""
    return (image[..., 2] - 20) / 20


@pytest.fixture(scope="module")
def epochs(places):
    """The examples of the first three epochs with the ids of their images."""
    dataset = load(places)
    ids = np.reshape([dataset.image_ids(epoch, 0) for epoch in range(3)], (3 * COUNT, 4))
    return list(zip(ids.tolist(), examples(dataset, 3), strict=True))


def test_every_box_encloses_the_same_pixels_as_in_its_file(places, epochs):
    boxes_of = [image.boxes for image in places[1].images]
    found = flipped = 0
    for ids, (image, boxes, labels) in epochs:
        if len(set(ids)) < 4:
            continue  # an image next to itself shows no seam
        for box, label in zip(boxes, labels, strict=True):
            left, top, right, bottom = box
            around = image[int(top) - 2 : int(bottom) + 3, int(left) - 2 : int(right) + 3]
            inside = (box > 3).all() and (box[:2] + 3 < box[2:]).all()
            inside = inside and right < CANVAS[1] - 3 and bottom < CANVAS[0] - 3
            if not inside or not np.allclose(part_numbers(around), label, atol=0.04):
                continue  # cut off by the border or by the neighbor
            row = image[int((top + bottom) / 2), :, 0]
            column = image[:, int((left + right) / 2), 1]
            x = np.interp([left, right], np.arange(CANVAS[1]) + 0.5, row) + 0.5
            y = np.interp([top, bottom], np.arange(CANVAS[0]) + 0.5, column) + 0.5
            flipped += x[0] > x[1]
            in_file = np.array([x.min(), y[0], x.max(), y[1]])
            assert np.abs(boxes_of[label] - in_file).max(axis=1).min() < 0.15
            found += 1
    assert found > 60 and 0.3 < flipped / found < 0.7


def test_four_images_meet_at_a_point_in_the_middle_half(epochs):
    points = []
    for ids, (image, _, labels) in epochs:
        numbers = part_numbers(image)
        np.testing.assert_allclose(numbers, numbers.round(), atol=0.04)  # all are from images
        numbers = numbers.round().astype(int)
        corners = numbers[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert ids == (corners + 1).tolist()
        assert set(labels) <= set(corners)
        if len(set(corners)) < 4:
            continue  # an image next to itself shows no seam
        y = int(np.argmax(numbers[:, 0] != corners[0]))
        x = int(np.argmax(numbers[0] != corners[0]))
        expected = np.repeat(corners.reshape(2, 2), [y, CANVAS[0] - y], axis=0)
        expected = np.repeat(expected, [x, CANVAS[1] - x], axis=1)
        np.testing.assert_array_equal(numbers, expected)
        points.append((y / CANVAS[0], x / CANVAS[1]))
    assert len(points) > 5
    assert 0.24 <= np.min(points) <= np.max(points) <= 0.76
    assert np.ptp(points, axis=0).min() > 0.2


@pytest.mark.slow
def test_half_of_the_examples_are_mosaics_and_the_others_are_unchanged(places):
    half, none = (load(places, Augmentation(mosaic=chance)) for chance in (0.5, 0.0))
    alone = 0
    for one, other in zip(list(examples(half, 5)), examples(none, 5), strict=True):
        alone += np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
    assert abs(alone / (5 * COUNT) - 0.5) < 0.21  # three deviations


def test_mosaics_repeat_with_the_seed_and_keep_the_largest_boxes(places, epochs):
    """Reopened within the third epoch, with other batches and at most five boxes."""
    spec, most = load(places).element_spec[1], max(len(i.boxes) for i in places[1].images)
    assert spec["boxes"].shape.as_list() == [None, 4 * most, 4]  # the boxes of four images
    reopened = load(places, batch_size=2, initial_epoch=2, initial_step=1, max_boxes=5)
    for (image, boxes, _), (_, (expected, others, _)) in zip(
        examples(reopened, 1), epochs[2 * COUNT + 2 :], strict=True
    ):
        np.testing.assert_array_equal(image, expected)
        areas, kept = (np.sort(np.prod(b[:, 2:] - b[:, :2], axis=1)) for b in (others, boxes))
        np.testing.assert_array_equal(kept, areas[-5:])
    assert not np.array_equal(epochs[0][1][0], epochs[2 * COUNT][1][0])


def test_uncovered_pixels_are_zero_even_with_normalization_or_a_broken_file(places):
    class Preprocessor:
        def normalize(self, images):
            return images + 1000.0

    small = Augmentation(mosaic=1.0, scale=(0.2, 0.2))
    bad = places[1].images[2].path
    whole = bad.read_bytes()
    bad.write_bytes(b"no image")
    dataset = load(places, small, preprocessor=Preprocessor(), on_error="skip")
    for image, _, labels in examples(dataset, epochs=2):
        covered = image.min(axis=-1) >= 1000
        assert 0.05 < covered.mean() < 0.5 and 2 not in labels
        np.testing.assert_array_equal(image[~covered], 0)
    bad.write_bytes(whole)
