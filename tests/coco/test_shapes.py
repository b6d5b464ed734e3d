"""The drawn dataset, compared with the pixels of its JPEG files."""

import colorsys
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from keras_dyhead.coco import SHAPES, draw_shapes, load_coco


def read(path):
    """The COCO dictionary, and the pixels and (x1, y1, x2, y2) boxes of each image."""
    content = json.loads(path.read_text())
    pictures = []
    for image in content["images"]:
        with Image.open(path.parent / "images" / image["file_name"]) as file:
            pixels = np.asarray(file).astype(float)
        boxes = [a["bbox"] for a in content["annotations"] if a["image_id"] == image["id"]]
        boxes = np.array(boxes).reshape(-1, 4)
        pictures.append((pixels, np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])))
    return content, pictures


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_seed_draws_the_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        draw_shapes(tmp_path / name, 4, image_size=96, seed=seed)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    a, c = files(tmp_path / "a"), files(tmp_path / "c")
    assert a.keys() == c.keys() and all(a[name] != c[name] for name in a)


def test_an_image_depends_only_on_its_number(tmp_path):
    draw_shapes(tmp_path / "all", 4, image_size=96)
    draw_shapes(tmp_path / "end", 2, image_size=96, start=2)
    whole, end = files(tmp_path / "all" / "images"), files(tmp_path / "end" / "images")
    assert len(end) == 2 and all(whole[name] == end[name] for name in end)


def test_a_box_tightly_fits_the_pixels_that_differ_from_the_background(tmp_path):
    path = draw_shapes(tmp_path, 40, max_shapes=1, empty_fraction=0, clutter=0)
    for pixels, boxes in read(path)[1]:
        distance = np.linalg.norm(pixels - np.median(pixels.reshape(-1, 3), axis=0), axis=-1)
        if (boxes[0, 2:] - boxes[0, :2]).prod() > pixels.shape[0] ** 2 / 3:
            continue  # the median may be the shape
        rows, columns = np.nonzero(distance > distance.max() / 2)
        extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(boxes[0], extent, atol=1)


def test_every_pixel_of_an_object_is_in_a_box_and_overlaps_are_small(tmp_path):
    path = draw_shapes(tmp_path, 20, empty_fraction=0, size_range=(12, 60), clutter=0)
    for pixels, boxes in read(path)[1]:
        background = np.median(pixels.reshape(-1, 3), axis=0)
        outside = np.ones(pixels.shape[:2], bool)
        for x1, y1, x2, y2 in boxes:
            outside[max(0, y1 - 1) : y2 + 1, max(0, x1 - 1) : x2 + 1] = False
        distance = np.linalg.norm(pixels - background, axis=-1)
        assert distance[outside].max() < max(40, distance.max() / 4)  # JPEG rings
        for a, b in itertools.combinations(boxes, 2):
            common = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
            assert common <= 0.2 * min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod())


def test_all_classes_sizes_and_empty_images_occur(tmp_path):
    content, pictures = read(draw_shapes(tmp_path, 100))
    categories = [annotation["category_id"] for annotation in content["annotations"]]
    assert min(np.bincount(categories, minlength=len(SHAPES) + 1)[1:]) > 50
    sides = np.array([max(annotation["bbox"][2:]) for annotation in content["annotations"]])
    assert 10 <= sides.min() <= 14 and 140 <= sides.max() <= 160
    assert 1 <= sum(len(boxes) == 0 for _, boxes in pictures) <= 14
    assert all((boxes >= 0).all() and (boxes <= 256).all() for _, boxes in pictures)


def foreground(pixels):
    """The distance of each pixel from the plain background."""
    return np.linalg.norm(pixels - np.median(pixels.reshape(-1, 3), axis=0), axis=-1)


def single_objects(path):
    """Label, pixels and mask of every object in a plain set with one shape per image."""
    content, pictures = read(path)
    for annotation, (pixels, _) in zip(content["annotations"], pictures, strict=True):
        distance = foreground(pixels)
        yield annotation["category_id"] - 1, pixels, distance > distance.max() / 2


PLAIN = {
    "image_size": 128,
    "max_shapes": 1,
    "empty_fraction": 0,
    "clutter": 0,
    "size_range": (20, 60),
}


@pytest.mark.parametrize("class_hues", [True, False])
def test_hues_identify_the_class_only_if_each_class_has_its_own(tmp_path, class_hues):
    path = draw_shapes(tmp_path, 60, class_hues=class_hues, **PLAIN)
    right = []
    for label, pixels, mask in single_objects(path):
        hue = colorsys.rgb_to_hsv(*np.median(pixels[mask], axis=0) / 255)[0]
        right.append(round(hue * len(SHAPES)) % len(SHAPES) == label)
    share = np.mean(right)
    assert share > 0.95 if class_hues else share < 0.45  # by chance 0.2


def test_shapes_are_lighter_than_the_background_by_the_minimum_contrast(tmp_path):
    smallest = {}
    for contrast in (10, 80):
        path = draw_shapes(tmp_path / str(contrast), 40, min_contrast=contrast, **PLAIN)
        differences = [
            np.median(pixels[mask], axis=0).mean() - np.median(pixels[~mask], axis=0).mean()
            for _, pixels, mask in single_objects(path)
        ]
        smallest[contrast] = min(differences)
    assert 8 < smallest[10] < 45 and smallest[80] > 77


def test_stretched_circles_are_ellipses_in_all_directions(tmp_path):
    ratios, angles = {}, []
    for stretch in (0.75, 0.3):
        path = draw_shapes(tmp_path / str(stretch), 120, min_stretch=stretch, **PLAIN)
        ratios[stretch] = []
        for label, _, mask in single_objects(path):
            if SHAPES[label] == "circle":
                values, vectors = np.linalg.eigh(np.cov(np.nonzero(mask)))
                ratios[stretch].append(np.sqrt(values[0] / values[1]))
                angles.append(np.arctan2(*vectors[:, 1]) % np.pi)
    assert min(ratios[0.75]) > 0.7 and min(ratios[0.3]) < 0.5
    assert min(np.histogram(angles, 3, (0, np.pi))[0]) >= 4


def test_boxes_overlap_up_to_the_limit_and_contain_the_visible_pixels(tmp_path):
    form = {"image_size": 128, "empty_fraction": 0, "size_range": (20, 70), "clutter": 0}
    path = draw_shapes(tmp_path, 30, max_overlap=0.5, **form)
    content, pictures = read(path)
    shares = []
    for pixels, boxes in pictures:
        visible = foreground(pixels) > 25
        for x1, y1, x2, y2 in boxes:
            assert visible[y1:y2, x1:x2].mean() > 0.1
        for a, b in itertools.combinations(boxes, 2):
            common = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None).prod()
            shares.append(common / min((a[2:] - a[:2]).prod(), (b[2:] - b[:2]).prod()))
    assert sum(np.array(shares) > 0.2) > 10
    assert all(a["area"] > 10 for a in content["annotations"])


def test_a_shape_hidden_by_others_is_not_an_object(tmp_path):
    """Twenty large overlapping shapes: each annotated one is at least a quarter visible."""
    path = draw_shapes(
        tmp_path, 10, max_shapes=20, max_overlap=1, empty_fraction=0, size_range=(100, 160)
    )
    annotations = read(path)[0]["annotations"]
    assert all(a["area"] > 0.25 * 0.3 * 0.3 * 100**2 for a in annotations)  # a thin cross
    assert len(annotations) < 100


def test_outlines_are_drawn_but_are_not_objects(tmp_path):
    form = {"empty_fraction": 1, "clutter": 0}
    changed = {}
    for count in (0, 8):
        path = draw_shapes(tmp_path / str(count), 10, max_outlines=count, **form)
        content, pictures = read(path)
        assert not content["annotations"]
        changed[count] = [(foreground(pixels) > 40).mean() for pixels, _ in pictures]
    assert max(changed[0]) == 0 and sum(share > 0.003 for share in changed[8]) >= 7
    assert max(changed[8]) < 0.3  # lines, not areas


def test_load_coco_finds_nothing_wrong(tmp_path):
    path = draw_shapes(tmp_path, 5, image_size=64)
    dataset = load_coco(tmp_path / "images", path, batch_size=5, image_size=(64, 64))
    assert dataset.class_names == list(SHAPES) and not dataset.annotations.problems
    assert sum(int(batch[0].shape[0]) for batch in dataset) == 5


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_images": 0},
        {"size_range": (50, 40)},
        {"image_size": 16},
        {"min_contrast": 120},
        {"min_stretch": 0},
        {"max_overlap": 1.5},
        {"max_outlines": -1},
        {"max_shapes": 0},
        {"empty_fraction": 2},
        {"size_range": (20,)},
    ],
)
def test_impossible_requests_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="Received"):
        draw_shapes(tmp_path, **{"num_images": 1} | wrong)
