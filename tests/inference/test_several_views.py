"""Views of an image: the detections of each view, and how they are merged."""

import keras
import numpy as np
import pytest
from small_detector import by_hand, small_detector

from keras_dyhead.detectors import ATSS, DetectionPreprocessor
from keras_dyhead.inference import TestTimeAugmentation, detect_images, image_detector
from keras_dyhead.inference.several_views import MERGES
from keras_dyhead.layers import FeaturePyramid

Views = TestTimeAugmentation


@pytest.fixture(scope="module")
def image():
    """An image 64 pixels high, which the plain view shows unpadded, also when flipped."""
    small = np.random.default_rng(0).uniform(0, 255, (4, 6, 3)).astype("float32")
    return np.asarray(keras.ops.image.resize(small, (64, 96))).astype("uint8")


def flip(found, width):
    left, top, right, bottom = found["boxes"].T
    return found | {"boxes": np.stack([width - right, top, width - left, bottom], axis=1)}


def assert_same(found, expected, atol=1e-3):
    """Compares detections regardless of the order of ties."""
    assert len(found["labels"]) == len(expected["labels"]) > 1
    for one, other in ((found, expected), (expected, found)):
        near = np.abs(one["boxes"][:, None] - other["boxes"][None]).max(-1) <= atol
        near &= np.abs(one["confidence"][:, None] - other["confidence"][None]) <= 1e-5
        near &= one["labels"][:, None] == other["labels"][None]
        assert near.any(1).all()


def merged_by_loops(views, threshold, vote, max_detections):
    """Reference: greedy merging box by box in float64."""
    rows = [
        [*map(float, box), int(label), float(score)]
        for view in views
        for box, label, score in zip(*view.values(), strict=True)
    ]
    rows.sort(key=lambda row: -row[5])  # stable: ties keep the order of views
    merged = []
    while rows:
        head, group, others = rows[0], [rows[0]], []
        for row in rows[1:]:
            width = min(head[2], row[2]) - max(head[0], row[0])
            height = min(head[3], row[3]) - max(head[1], row[1])
            overlap = max(width, 0.0) * max(height, 0.0)
            areas = [(r[2] - r[0]) * (r[3] - r[1]) for r in (head, row)]
            same = head[4] == row[4] and overlap / (sum(areas) - overlap) > threshold
            (group if same else others).append(row)
        total = sum(row[5] for row in group)
        box = [sum(row[k] * row[5] for row in group) / total for k in range(4)]
        merged.append([*(box if vote else head[:4]), *head[4:]])
        rows = others
    return np.array(merged[:max_detections])


def random_views(seed, count=4, objects=12):
    """Detections of several views: common objects, slightly shifted, and false alarms."""
    random = np.random.default_rng(seed)
    corners = random.uniform(0, 200, (objects, 2))
    truth = np.hstack([corners, corners + random.uniform(20, 120, (objects, 2))])
    for _ in range(count):
        chosen = random.integers(0, objects, 30)
        yield {
            "boxes": (truth[chosen] + random.normal(0, 5, (30, 4))).astype("float32"),
            "labels": (chosen % 3).astype("int32"),
            "confidence": random.uniform(0.05, 1, 30).astype("float32"),
        }


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("threshold", [0.3, 0.65])
def test_merging_matches_a_loop_over_the_boxes_in_float64(merge, threshold):
    for seed in range(5):
        views = list(random_views(seed))
        found = Views(merge=merge, iou_threshold=threshold).combine(views, 40)
        expected = merged_by_loops(views, threshold, merge == "vote", 40)
        assert len(expected) < 120  # some boxes were merged
        np.testing.assert_array_equal(found["labels"], expected[:, 4])
        np.testing.assert_array_equal(found["confidence"], expected[:, 5].astype("float32"))
        np.testing.assert_allclose(found["boxes"], expected[:, :4], rtol=0, atol=1e-4)


def test_views_without_detections_give_none():
    nothing = {name: value[:0] for name, value in next(random_views(0)).items()}
    assert Views().combine([nothing, nothing])["boxes"].shape == (0, 4)
    some = next(random_views(0))
    assert Views().combine([some]) is some  # a single view is unchanged, to the bit
    assert len(Views(merge="nms", iou_threshold=0.99).combine([nothing, some])["labels"]) == 30


def test_an_image_and_its_flip_give_the_same_detections(small_model, eager, image):
    """The union of both views is flipped with the image, and equals the separate views."""
    plain = image_detector(small_model)
    both = image_detector(small_model, Views(scales=(1.0,), merge="nms", iou_threshold=0.9))
    found, width = both(image), image.shape[1]
    assert_same(both(image[:, ::-1]), flip(found, width))
    views = [plain(image), flip(plain(image[:, ::-1]), width)]
    expected = merged_by_loops(views, 0.9, False, 20)
    columns = {"boxes": expected[:, :4], "labels": expected[:, 4], "confidence": expected[:, 5]}
    assert_same(found, columns)
    assert not np.array_equal(found["boxes"], plain(image)["boxes"])  # the flipped view matters


def test_another_scale_resizes_images_even_for_a_model_with_one_size(eager, image):
    """A model of one canvas is copied, with the same weights, for other canvases."""
    fixed = small_detector(DetectionPreprocessor(image_size=(64, 64)), (64, 64, 3))
    larger = small_detector(DetectionPreprocessor(image_size=(96, 96)))
    fixed.set_weights([weight * 0.9 for weight in fixed.get_weights()])  # not as initialized
    larger.set_weights(fixed.get_weights())
    (found,) = detect_images(fixed, [image], Views(scales=(1.5,), horizontal_flip=False))
    assert_same(found, by_hand(larger, image))


def test_other_scales_need_a_backbone_for_any_size():
    images = keras.Input((64, 64, 3))
    maps = {f"P{i}": keras.layers.Conv2D(16, 1, 2**i)(images) for i in (3, 4, 5)}
    for shape in ((64, 64, 3), (None, None, 3)):
        arguments = {"pyramid": FeaturePyramid(16, max_level=5), "image_shape": shape}
        model = ATSS(keras.Model(images, maps), 2, None, **arguments)
        with pytest.raises(ValueError, match=r"any size. Received: .*shape \(64, 64, 3\)"):
            image_detector(model, Views(scales=(1.0, 1.5)))


def test_every_scale_keeps_the_boxes_in_its_size_range():
    views = Views(scales=(0.5, 2), size_ranges=((16, 1e4), (0, 40)))
    sides = np.array([10.0, 32, 33, 200])  # of squares in pixels of the image
    boxes = np.stack([sides * 0, sides * 0, sides, sides], axis=1).astype("float32")
    found = {"boxes": boxes, "labels": np.arange(4), "confidence": np.ones(4)}
    assert views.select(found, 0.5, zoom=0.5)["labels"].tolist() == [1, 2, 3]  # 5, 16, 16.5, 100
    assert views.select(found, 2.0, zoom=2.0)["labels"].tolist() == [0]  # 20, 64, 66, 400
    assert Views().select(found, 1.0, zoom=1.0) is found


def test_invalid_settings_are_named():
    for arguments, message in (
        ({"scales": ()}, "`scales` must be unique positive factors"),
        ({"scales": (1, 1)}, "`scales` must be unique positive factors"),
        ({"scales": 1.5}, "`scales` must be unique positive factors.*=1.5"),
        ({"scales": ("1",)}, "`scales` must be unique positive factors"),
        ({"scales": (1, [2])}, "`scales` must be unique positive factors"),
        ({"scales": (1, 0)}, "`scales` must be unique positive factors"),
        ({"scales": (1, float("nan"))}, "`scales` must be unique positive factors"),
        ({"merge": "mean"}, "`merge` must be one of .*'mean'"),
        ({"iou_threshold": 1.5}, "`iou_threshold` must be between 0 and 1"),
        ({"iou_threshold": "0.5"}, "`iou_threshold` must be between 0 and 1"),
        ({"scales": (1,), "size_ranges": (("0", 9),)}, r"\(smallest, largest\) for each scale"),
        ({"scales": (1, 2), "size_ranges": ((0, 9), (0,))}, r"\(smallest, largest\) for each"),
        ({"scales": (1, 2), "size_ranges": ((0, 9),)}, r"\(smallest, largest\) for each scale"),
        ({"scales": (1, 2), "size_ranges": ((0,), (9,))}, r"\(smallest, largest\) for each scale"),
        ({"scales": (1, 2), "size_ranges": 9}, r"\(smallest, largest\) for each scale"),
    ):
        with pytest.raises(ValueError, match=message):
            Views(**arguments)
