"""Tiles of a large image: where they lie, and what becomes of what they find."""

import numpy as np
import pytest

from keras_dyhead.inference import Tiles, image_detector

TRUTH = np.array([[10, 10, 60, 50], [70, 20, 95, 60], [150, 120, 190, 199], [0, 85, 45, 100]])


def exact(found, expected):
    assert found.keys() == expected.keys() and len(found["labels"])
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def see(tile):
    """Finds the parts of the true boxes in a tile whose pixels are their own coordinates."""
    (left, top), (height, width) = tile[0, 0, :2], tile.shape[:2]
    boxes = np.clip(TRUTH - [left, top] * 2, 0, [width, height] * 2).astype("float32")
    sides = boxes[:, 2:] - boxes[:, :2]
    shown = sides.prod(axis=1) / np.prod(TRUTH[:, 2:] - TRUTH[:, :2], axis=1)
    seen = sides.min(axis=1) > 0
    labels, confidence = np.arange(len(TRUTH), dtype="int32"), shown.astype("float32")
    return {"boxes": boxes[seen], "labels": labels[seen], "confidence": confidence[seen]}


@pytest.fixture
def coordinates():
    """An image of 200x200 pixels, each (x, y, 0)."""
    y, x = np.mgrid[:200, :200]
    return np.stack([x, y, 0 * x], axis=-1)


@pytest.mark.parametrize(("size", "overlap"), [(100, 0.5), (120, 0.5), (130, 0.4), (400, 0.2)])
def test_every_object_is_found_once_and_whole(size, overlap, coordinates):
    found = Tiles(size, overlap).detect(see, coordinates, iou_threshold=0.6)
    np.testing.assert_array_equal(found["confidence"], 1)
    order = np.argsort(found["labels"], kind="stable")
    np.testing.assert_array_equal(found["boxes"][order], TRUTH)


@pytest.mark.parametrize(("size", "overlap", "side"), [(100, 0.2, 251), (100, 0.9, 201)])
def test_no_place_of_an_object_is_between_two_tiles(size, overlap, side):
    """Objects just under the overlap end at both margins somewhere; pieces are the surer ones."""
    image = np.stack([*np.mgrid[:20, :side][::-1], np.zeros((20, side), int)], axis=-1)
    widest = round(size * overlap)
    for width in range(widest - 3, widest + 1):
        for left in range(side - width):
            truth = np.array([left, 2, left + width, 12])

            def look(tile, truth=truth, width=width):
                box = truth - [tile[0, 0, 0], 0] * 2
                box = np.clip(box, 0, [tile.shape[1], tile.shape[0]] * 2)[None].astype("float32")
                seen = box[:, 2] > box[:, 0]
                confidence = np.where(box[:, 2] - box[:, 0] < width, 0.9, 0.5)
                found = {"boxes": box, "labels": np.zeros(1, "int32"), "confidence": confidence}
                return {name: values[seen] for name, values in found.items()}

            found = Tiles(size, overlap).detect(look, image, iou_threshold=0.5)
            np.testing.assert_array_equal(found["boxes"], truth[None], err_msg=f"{left}, {width}")


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
    found = Tiles(100, 0.2).detect(look, row, iou_threshold=0.5)
    assert seen.min() >= 1 and found["boxes"].shape == (0, 4)


def test_an_image_of_one_tile_is_detected_in_as_it_is(small_model, eager):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), "uint8")
    plain = image_detector(small_model)(image)
    exact(image_detector(small_model, tiles=Tiles(96))(image), plain)
    several = image_detector(small_model, tiles=Tiles(64, 0.5))(image)
    assert len(several["labels"]) > len(plain["labels"])
    assert (np.diff(several["confidence"]) <= 0).all() and several["boxes"].max() <= 96


@pytest.mark.parametrize("arguments", [(0, 0.2), (100, 1.0), (100, -0.1)])
def test_impossible_tiles_are_refused(arguments):
    with pytest.raises(ValueError, match="overlap="):
        Tiles(*arguments)


@pytest.mark.parametrize("arguments", [(100.5, 0.2), (True, 0.2), ("100", 0.2), (100, None)])
def test_tiles_of_other_types_are_refused(arguments):
    with pytest.raises(TypeError, match="Received: size={!r}, overlap={!r}".format(*arguments)):
        Tiles(*arguments)
