"""Boxes in another format than COCO's are recognized, and good boxes are accepted."""

import numpy as np
import pytest

from keras_dyhead.coco import CocoAnnotations


def box_file(coco, noise, boxes, size=(100, 200)):
    image_id = coco.add_image(noise(*size))
    for box in boxes:
        coco.add_box(image_id, [float(v) for v in box])
    return coco.write()


def some_boxes(count=20):
    rng = np.random.default_rng(0)
    size = rng.uniform(10, 50, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * ((200, 100) - size)
    return corner, size


FORMS = {
    "[left, top, right, bottom]": lambda c, s: np.hstack([c, c + s]),
    "[center x, center y, width, height]": lambda c, s: np.hstack([c + s / 2, s]),
    "[y, x, height, width]": lambda c, s: np.hstack([c[:, ::-1], s[:, ::-1]]),
    "[top, left, bottom, right]": lambda c, s: np.hstack([c[:, ::-1], (c + s)[:, ::-1]]),
}


@pytest.mark.parametrize("form", FORMS)
def test_boxes_in_another_format_are_reported_in_one_line(coco, noise, form):
    path = box_file(coco, noise, FORMS[form](*some_boxes()))
    with pytest.raises(ValueError, match="has 1 problem ") as raised:
        CocoAnnotations(path)
    assert f"all 20 boxes: look like {form}" in str(raised.value)
    assert "was clipped" not in str(raised.value)


def test_fractions_are_recognized_even_if_one_is_the_whole_image(coco, noise):
    corner, size = some_boxes()
    boxes = np.vstack([np.hstack([corner, size]) / [200, 100, 200, 100], [[0, 0, 1, 1]]])
    with pytest.raises(ValueError, match="21 problems") as raised:
        CocoAnnotations(box_file(coco, noise, boxes))
    assert str(raised.value).count("looks like fractions of the image size") == 10
    assert "21 in all" in str(raised.value)


def test_good_boxes_are_not_taken_for_another_format(coco, noise):
    corner, size = some_boxes()
    boxes = np.vstack([np.hstack([corner, size]), [[0, 0, 1, 1], [0, 0, 200, 100]]])
    annotations = CocoAnnotations(box_file(coco, noise, boxes))
    assert annotations.problems == [] and len(annotations.images[0].boxes) == 22
    # A single imprecise box is only clipped.
    coco.add_box(1, [150, 60, 80, 60])
    with pytest.warns(UserWarning, match="1 problem: 0 left out, 1 kept"):
        CocoAnnotations(coco.write())


THIN = [[195.3, 5, 1e-6, 9], [5, 95.3, 9, 1e-6], [5, 5, 1e-9, 1e-9], [0, 5, 1e-9, 9]]
AT_THE_EDGE = [[199.9999999, 5, 5, 5], [5, 99.99999999, 5, 5], [-5, 5, 5 + 1e-9, 5]]


@pytest.mark.parametrize(
    "box, fault",
    [*((box, "has no area") for box in THIN), *((box, "lies outside") for box in AT_THE_EDGE)],
)
def test_boxes_too_thin_for_float32_are_left_out(coco, noise, box, fault):
    path = box_file(coco, noise, [box, [199.9, 99.9, 5e-5, 5e-5]])
    with pytest.warns(UserWarning, match=f"1 problem: 1 left out, 0 kept.*\n.* {fault}"):
        (image,) = CocoAnnotations(path, on_error="skip").images
    ((left, top, right, bottom),) = image.boxes
    assert left < right and top < bottom
