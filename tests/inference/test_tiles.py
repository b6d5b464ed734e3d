"""Tiles of a large image: their positions and their merged detections."""

import itertools

import numpy as np
import pytest

from keras_dyhead.inference import Tiles, image_detector
from keras_dyhead.ops.boxes import box_iou

TRUTH = np.array([[10, 10, 60, 50], [70, 20, 95, 60], [150, 120, 190, 199], [0, 85, 45, 100]])


def exact(found, expected):
    assert found.keys() == expected.keys() and len(found["labels"])
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def parts(truth, tile, labels=None, noise=0):
    """The parts of true boxes in a tile whose pixels are their own coordinates, best first.

    Whole objects are less confident than parts. Boxes of a tile are too small by the noise.
    """
    (left, top), (height, width) = tile[0, 0, :2], tile.shape[:2]
    boxes = np.clip(truth - [left, top] * 2, 0, [width, height] * 2).astype("float32")
    boxes = boxes + np.array([noise, noise, 0, 0], "float32")
    sides = boxes[:, 2:] - boxes[:, :2]
    whole = (sides + noise == truth[:, 2:] - truth[:, :2]).all(axis=1)
    labels = np.zeros(len(truth), "int32") if labels is None else np.array(labels)
    found = {"boxes": boxes, "labels": labels, "confidence": np.where(whole, 0.5, 0.9)}
    seen = sides.min(axis=1) > 0
    return {name: values[seen] for name, values in found.items()}


def detect(tiles, truth, image, **options):
    """Detects objects with boxes `truth` in tiles of such an image."""
    truth = np.array(truth)
    return tiles.detect(lambda tile: parts(truth, tile, **options), image, 0.6, 100)


def by_position(boxes):
    return np.array(sorted(np.asarray(boxes).tolist()))


@pytest.fixture
def coordinates():
    """An image of 200x200 pixels with the values (x, y, 0)."""
    y, x = np.mgrid[:200, :200]
    return np.stack([x, y, 0 * x], axis=-1)


@pytest.mark.parametrize(("size", "overlap"), [(100, 0.5), (120, 0.5), (130, 0.4), (400, 0.2)])
def test_every_object_is_found_once_and_whole(size, overlap, coordinates):
    labels = np.arange(len(TRUTH), dtype="int32")
    found = detect(Tiles(size, overlap), TRUTH, coordinates, labels=labels)
    order = np.argsort(found["labels"], kind="stable")
    np.testing.assert_array_equal(found["boxes"][order], TRUTH)


@pytest.mark.parametrize("noise", [0, 1])
@pytest.mark.parametrize(("overlap", "side"), [(0.2, 180), (0.9, 125)])
def test_no_object_falls_between_two_tiles(overlap, side, noise):
    """Objects just below the overlap may end in both margins, with or without a pixel of noise.

    Then a box that lacks the pixels in the margin may be kept.
    """
    image = np.stack([*np.mgrid[:20, :side][::-1], np.zeros((20, side), int)], axis=-1)
    widest = round(100 * overlap)
    for width in (widest - 3, widest - 1, widest):
        for left in range(side // 3 if overlap < 0.5 else 0, min(side - width, 105)):
            truth, turn = np.array([[left, 2, left + width, 12]]), itertools.cycle([0, noise])
            found = Tiles(100, overlap).detect(
                lambda tile, truth=truth, turn=turn: parts(truth, tile, noise=next(turn)),
                image,
                iou_threshold=0.5,
                max_detections=100,
            )
            assert found["boxes"].shape == (1, 4), f"{left}, {width}"
            if not np.array_equal(found["boxes"], truth):
                overlap_with_truth = float(box_iou(found["boxes"], truth)[0, 0])
                assert noise and overlap_with_truth >= 0.8, f"{left}, {width}"


@pytest.mark.parametrize("box", [[82, 82, 98, 98], [75, 85, 90, 99], [95, 70, 110, 90]])
def test_an_object_where_four_tiles_meet_is_found_once(box, coordinates):
    found = detect(Tiles(100, 0.2), [box], coordinates[:180, :180])
    np.testing.assert_array_equal(found["boxes"], [box])


@pytest.mark.parametrize("noise", [2, 3, 4])
@pytest.mark.parametrize("box", [[70, 10, 98, 40], [10, 72, 40, 99], [70, 70, 98, 98]])
def test_a_piece_that_ends_before_the_border_is_not_a_second_object(box, noise, coordinates):
    """A smaller object inside stays."""
    truth = [box, [86, 86, 90, 90]]
    found = detect(Tiles(100, 0.2), truth, coordinates[:180, :180], noise=noise, labels=[0, 0])
    largest = np.array(box) + [noise, noise, 0, 0]
    assert largest.tolist() in found["boxes"].tolist()
    assert len(found["boxes"]) == 1 + (noise < 4)  # four pixels of noise leave nothing of it


def test_rows_of_tiles_split_an_object_longer_than_the_overlap(coordinates):
    """No tile contains its whole length, but one row contains its whole height."""
    found = detect(Tiles(100, 0.2), [[40, 70, 140, 90]], coordinates[:180, :180])
    np.testing.assert_array_equal(
        by_position(found["boxes"]), [[40, 70, 100, 90], [80, 70, 140, 90]]
    )


def test_a_cut_object_that_the_neighbor_misses_is_kept(coordinates):
    """The neighbor finds another object of the class there, and an overlapping other class."""
    image = coordinates[:100, :180]

    def look(tile):
        found = {
            0: ([[80, 10, 100, 30]], [0]),
            80: ([[12, 20, 30, 40], [0, 10, 30, 30]], [0, 1]),
        }
        boxes, labels = (np.array(values) for values in found[tile[0, 0, 0]])
        return {
            "boxes": boxes.astype("float32"),
            "labels": labels,
            "confidence": np.ones(len(labels), "float32"),
        }

    found = Tiles(100, 0.2).detect(look, image, iou_threshold=0.5, max_detections=100)
    assert [80, 10, 100, 30] in found["boxes"].tolist() and len(found["boxes"]) == 3


def test_the_whole_image_has_the_detection_limit_of_the_model(coordinates):
    truth = np.array([[x, y, x + 4, y + 4] for x in range(0, 200, 10) for y in range(0, 200, 10)])
    confidence = np.linspace(0.9, 0.1, len(truth))

    def look(tile):
        (left, top), (height, width) = tile[0, 0, :2], tile.shape[:2]
        boxes = truth - [left, top] * 2
        seen = np.flatnonzero(((boxes >= 0) & (boxes <= [width, height] * 2)).all(axis=1))[:100]
        labels = np.zeros(len(seen), "int32")
        return {"boxes": boxes[seen], "labels": labels, "confidence": confidence[seen]}

    for tiles, expected in (
        (Tiles(50, 0.2), 100),
        (Tiles(50, 0.2, max_detections=350), 350),
        (Tiles(50, 0.2, max_detections=7), 7),
        (Tiles(200), 100),
        (Tiles(200, max_detections=7), 7),
    ):
        found = tiles.detect(look, coordinates, iou_threshold=0.5, max_detections=100)
        np.testing.assert_array_equal(found["boxes"], truth[:expected], err_msg=str(tiles))


@pytest.mark.parametrize("side", [100, 101, 139, 140, 180, 1003])
def test_tiles_cover_the_image_and_overlap(side):
    seen, last = np.zeros(side, int), None

    def look(tile):
        nonlocal last
        start, length = tile[0, 0, 0], tile.shape[1]
        assert length == 100 and (last is None or last - start >= 20)
        last = start + length
        seen[start:last] += 1
        return {
            name: np.zeros((0, 4)[: 1 + (name == "boxes")])
            for name in ("boxes", "labels", "confidence")
        }

    row = np.arange(side)[None, :, None].repeat(3, axis=2)
    found = Tiles(100, 0.2).detect(look, row, iou_threshold=0.5, max_detections=100)
    assert seen.min() >= 1 and found["boxes"].shape == (0, 4)


def test_an_image_no_larger_than_a_tile_stays_whole(small_model, eager):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), "uint8")
    plain = image_detector(small_model)(image)
    exact(image_detector(small_model, tiles=Tiles(96))(image), plain)
    limit = small_model.decoder.max_detections
    several = image_detector(small_model, tiles=Tiles(64, 0.5))(image)
    assert len(several["labels"]) == limit
    several = image_detector(small_model, tiles=Tiles(64, 0.5, max_detections=2 * limit))(image)
    assert len(several["labels"]) > limit
    assert (np.diff(several["confidence"]) <= 0).all() and several["boxes"].max() <= 96


@pytest.mark.parametrize("arguments", [(0, 0.2), (100, 1.0), (100, -0.1), (100, 0.2, 0)])
def test_impossible_tiles_are_refused(arguments):
    with pytest.raises(ValueError, match="overlap="):
        Tiles(*arguments)


@pytest.mark.parametrize(
    "arguments", [(100.5, 0.2), (True, 0.2), ("100", 0.2), (100, None), (100, 0.2, 7.5)]
)
def test_tiles_with_arguments_of_other_types_are_refused(arguments):
    with pytest.raises(TypeError, match="Received: .*size={!r}, overlap={!r}".format(*arguments)):
        Tiles(*arguments)
