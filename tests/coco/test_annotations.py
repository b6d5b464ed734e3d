"""`CocoAnnotations` with good and broken annotation files."""

import json
import warnings

import numpy as np
import pytest
from PIL import Image

from keras_dyhead.coco import CocoAnnotations


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_labels_follow_ascending_category_ids_and_boxes_become_xyxy(coco, noise):
    image_id = coco.add_image(noise(20, 30))
    coco.add_box(image_id, [1, 2, 3, 4], 7)
    coco.add_box(image_id, [10, 11, 5.5, 6], 3)
    annotations = CocoAnnotations(coco.write(), coco.folder)
    assert annotations.class_names == ["dog", "cat"]
    assert annotations.category_ids == [3, 7]
    assert annotations.problems == []
    (image,) = annotations.images
    np.testing.assert_array_equal(image.boxes, [[1, 2, 4, 6], [10, 11, 15.5, 17]])
    np.testing.assert_array_equal(image.labels, [1, 0])


def test_crowds_are_not_targets_but_remain_in_the_ground_truth(coco, noise):
    image_id = coco.add_image(noise(20, 30))
    coco.add_box(image_id, [1, 2, 3, 4], iscrowd=1)
    annotations = CocoAnnotations(coco.write(), coco.folder)
    assert annotations.images[0].boxes.shape == (0, 4)
    assert [a["iscrowd"] for a in annotations.ground_truth()["annotations"]] == [1]


def test_class_names_select_and_order_the_labels(coco, noise):
    image_id = coco.add_image(noise(20, 30))
    coco.add_box(image_id, [1, 2, 3, 4], 7)
    coco.add_box(image_id, [5, 6, 3, 4], 3)
    coco.write()
    one = CocoAnnotations(coco.json, class_names=["cat"])
    assert one.images[0].labels.tolist() == [0] and one.category_ids == [7]
    assert [a["category_id"] for a in one.ground_truth()["annotations"]] == [7]
    with pytest.warns(UserWarning, match="class 'bird'"):
        three = CocoAnnotations(coco.json, class_names=["bird", "cat", "dog"])
    assert three.images[0].labels.tolist() == [1, 2]
    assert three.category_ids == [8, 7, 3]
    assert one.other_classes == ["dog"] and three.other_classes == []
    for wrong in (["cat", "cat"], ["cat", "cat "], ["cat", None], "cat", b"cat", [], 3):
        with pytest.raises(ValueError, match="list of unique names"):
            CocoAnnotations(coco.json, class_names=wrong)
    with pytest.raises(ValueError, match="has no class in common.*'dog', 'cat'.*'bird'"):
        CocoAnnotations(coco.json, class_names=["bird"], on_error="skip")


# Each case spoils one item of a dataset with two images and two boxes. The report names the item.
def no_file(c):
    c.add_image((20, 30), "gone.jpg")
    return "image 3 (gone.jpg)", "no such file"


def text_file(c):
    c.add_image((20, 30), "text.jpg")
    (c.folder / "text.jpg").write_text("hello")
    return "image 3 (text.jpg)", "cannot be decoded"


def empty_file(c):
    c.add_image((20, 30), "empty.png")
    (c.folder / "empty.png").touch()
    return "image 3 (empty.png)", "cannot be decoded"


def truncated_jpeg(c):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype("uint8")
    c.add_image(pixels, "half.jpg")
    truncate(c.folder / "half.jpg")
    return "image 3 (half.jpg)", "cannot be decoded"


def truncated_png(c):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype("uint8")
    c.add_image(pixels, "half.png")
    truncate(c.folder / "half.png")
    return "image 3 (half.png)", "cannot be decoded"


def wrong_size(c):
    c.add_image(np.zeros((20, 30, 3), "uint8"), height=21)
    return "image 3 (3.png)", "is 30x20 pixels"


def rotated_by_exif(c):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(c.folder / "exif.jpg", exif=exif)
    c.add_image((30, 20), "exif.jpg")
    return "image 3 (exif.jpg)", "EXIF orientation 6"


def image_id_twice(c):
    c.add_image(np.zeros((20, 30, 3), "uint8"), "again.png", id=" 1")
    return "image  1 (again.png)", "used twice"


def image_without_id(c):
    c.images.append({"file_name": "a.png"})
    return "image at position 2", "no usable id"


def image_id_half(c):
    c.add_image(np.zeros((20, 30, 3), "uint8"), id=2.5)
    return "image at position 2", "no usable id"


def image_id_true(c):
    c.add_image(np.zeros((20, 30, 3), "uint8"), id=True)
    return "image at position 2", "no usable id"


def sizes_swapped(c):
    c.add_image(np.zeros((20, 30, 3), "uint8"), height=30, width=20)
    return "image 3 (3.png)", "are height and width swapped?"


def one_side_wrong(c):
    c.add_image(np.zeros((20, 30, 3), "uint8"), height=None, width=31)
    return "image 3 (3.png)", "the annotations say 31x?"


def data_uri(c):
    c.add_image((20, 30), "data:image/jpeg;base64," + "A" * 5000)
    return "image 3 (data:image/jpeg;base64,A", "no such file"


def address(c):
    c.add_image((20, 30), "http://example.org/1.png")
    return "image 3 (http://example.org/1.png)", "no such file"


def no_file_name(c):
    c.add_image((20, 30), "x", file_name="")
    return "image 3 ()", "not a string that names a file"


def file_name_missing_as_number(c):
    c.add_image((20, 30), "3.png", file_name=5)
    return "image 3 (5)", "not a string"


def box_outside(c):
    return f"annotation {c.add_box(1, [30, 2, 4, 4])}", "outside"


def box_above(c):
    return f"annotation {c.add_box(1, [3, -9, 4, 9])}", "outside"


def box_without_width(c):
    return f"annotation {c.add_box(1, [3, 2, 0, 4])}", "no area"


def box_of_negative_height(c):
    return f"annotation {c.add_box(1, [3, 2, 4, -4])}", "no area"


def box_nan(c):
    return f"annotation {c.add_box(1, [3, float('nan'), 4, 4])}", "NaN"


def box_infinite(c):
    return f"annotation {c.add_box(1, [3, 1, float('inf'), 4])}", "infinite"


def box_of_three(c):
    return f"annotation {c.add_box(1, [3, 2, 4])}", "is not [x, y, width, height]"


def box_of_text(c):
    return f"annotation {c.add_box(1, ['3 px', 2, 4, 4])}", "is not [x, y, width, height]"


def box_with_none(c):
    return f"annotation {c.add_box(1, [3, None, 4, 4])}", "is not [x, y, width, height]"


def box_of_huge_integer(c):
    return f"annotation {c.add_box(1, [3, 10**400, 4, 4])}", "infinite"


def box_of_fractions(c):
    return f"annotation {c.add_box(1, [0.1, 0.2, 0.5, 0.5])}", "fractions of the image size"


def crowd_as_half(c):
    return f"annotation {c.add_box(1, [3, 2, 4, 4], iscrowd=0.5)}", "its iscrowd 0.5 is neither"


def crowd_as_word(c):
    return f"annotation {c.add_box(1, [3, 2, 4, 4], iscrowd='maybe')}", "'maybe' is neither"


def annotation_without_box(c):
    number = c.add_box(1, None)
    del c.annotations[-1]["bbox"]
    return f"annotation {number}", "lacks 'bbox'"


def annotation_of_unknown_image(c):
    return f"annotation {c.add_box(99, [1, 1, 2, 2])}", "no image with the id 99"


def annotation_of_image_list(c):
    return f"annotation {c.add_box([1], [1, 1, 2, 2])}", "no image with the id [1]"


def unknown_category(c):
    return f"annotation {c.add_box(1, [1, 1, 2, 2], 4)}", "no category with the id 4"


def category_id_twice(c):
    c.categories.append({"id": 3, "name": "wolf"})
    return "category 3", "used twice"


def category_name_none(c):
    c.categories.append({"id": 9, "name": None})
    return "category 9", "its name None is not text"


def category_without_name(c):
    c.categories.append({"id": 9})
    return "category 9", "lacks 'name'"


CASES = [
    no_file,
    text_file,
    empty_file,
    truncated_jpeg,
    truncated_png,
    wrong_size,
    rotated_by_exif,
    image_id_twice,
    image_without_id,
    image_id_half,
    image_id_true,
    sizes_swapped,
    one_side_wrong,
    data_uri,
    address,
    no_file_name,
    file_name_missing_as_number,
    box_outside,
    box_above,
    box_without_width,
    box_of_negative_height,
    box_nan,
    box_infinite,
    box_of_three,
    box_of_text,
    box_with_none,
    box_of_huge_integer,
    box_of_fractions,
    crowd_as_half,
    crowd_as_word,
    annotation_without_box,
    annotation_of_unknown_image,
    annotation_of_image_list,
    unknown_category,
    category_id_twice,
    category_name_none,
    category_without_name,
]


@pytest.mark.parametrize("spoil", CASES, ids=lambda case: case.__name__)
def test_unusable_items_are_named_in_errors_and_warnings(coco, noise, spoil):
    first, second = coco.add_image(noise(20, 30)), coco.add_image(noise(30, 20))
    coco.add_box(first, [1, 2, 3, 4], 3)
    coco.add_box(second, [2, 3, 4, 5], 7)
    item, message = spoil(coco)
    coco.write()

    with pytest.raises(ValueError) as raised:
        CocoAnnotations(coco.json, coco.folder)
    assert f"  - {item}" in str(raised.value) and message in str(raised.value)
    assert "1 problem " in str(raised.value)

    with pytest.warns(UserWarning) as warned:
        annotations = CocoAnnotations(coco.json, coco.folder, on_error="skip")
    assert len(warned) == 1 and f"  - {item}" in str(warned[0].message)
    (problem,) = annotations.problems
    assert problem.item.startswith(item) and message in problem.message and not problem.kept

    # Only the two good images with their boxes remain.
    assert [image.id for image in annotations.images] == [1, 2]
    assert [image.labels.tolist() for image in annotations.images] == [[0], [1]]
    truth = annotations.ground_truth()
    assert [a["bbox"] for a in truth["annotations"]] == [[1, 2, 3, 4], [2, 3, 4, 5]]


@pytest.mark.parametrize(("name", "fault"), [("dog", "already the name"), (None, "not text")])
def test_annotations_of_an_unusable_category_are_counted(coco, noise, name, fault):
    """Their objects remain in images as background."""
    image_id = coco.add_image(noise(20, 30))
    coco.add_box(image_id, [1, 2, 3, 4], 3)
    coco.categories.append({"id": 9, "name": name})
    for left in range(3):
        coco.add_box(image_id, [left, 1, 2, 2], 9)
    with pytest.warns(UserWarning, match="2 problems: 2 left out, 0 kept"):
        annotations = CocoAnnotations(coco.write(), coco.folder, on_error="skip")
    first, second = map(str, annotations.problems)
    assert fault in first and second == "category 9: its annotations are left out, too: 3"
    assert annotations.images[0].labels.tolist() == [0]


@pytest.mark.parametrize("box", [None, [], [0, 0, 0, 0]])
def test_a_missing_box_is_the_one_around_the_polygons(coco, noise, box):
    image_id = coco.add_image(noise(20, 30))
    coco.add_box(image_id, box, segmentation=[[3, 5, 9.5, 5, 9, 11], [2, 8, 4, 8, 4, 9]])
    coco.add_box(image_id, box, segmentation=[3, 5, 9, 5, 9, 11])
    coco.add_box(image_id, [1, 2, 3, 4], segmentation=[[3, 5, 9, 5, 9, 11]])
    annotations = CocoAnnotations(coco.write(), coco.folder)
    truth = [record["bbox"] for record in annotations.ground_truth()["annotations"]]
    assert truth == [[2, 5, 7.5, 6], [3, 5, 6, 6], [1, 2, 3, 4]]
    for other in ({"size": [20, 30], "counts": "0"}, [[3, 5, 9]], [["a", 5]], [[]], ["", 1]):
        coco.annotations = coco.annotations[:1]
        coco.annotations[0]["segmentation"] = other
        with pytest.raises(ValueError, match="annotation 1: its box"):
            CocoAnnotations(coco.write(), coco.folder)


def test_boxes_of_a_broken_image_are_not_reported_too(coco, noise):
    coco.add_image(noise(20, 30))
    broken = coco.add_image((20, 30), "gone.jpg")
    coco.add_box(broken, [1, 2, 3, 4])
    with pytest.warns(UserWarning, match="1 problem: 1 left out, 0 kept"):
        annotations = CocoAnnotations(coco.write(), coco.folder, on_error="skip")
    assert annotations.ground_truth()["annotations"] == []


def test_a_box_beyond_the_edge_is_clipped_and_reported_but_never_raises(coco, noise):
    image_id = coco.add_image(noise(20, 30))
    number = coco.add_box(image_id, [-2, 15, 10, 9])
    coco.add_box(image_id, [25, 0, 5.3, 5])  # 0.3 pixels beyond the edge: rounding
    with pytest.warns(UserWarning, match=f"annotation {number}: .* was clipped"):
        annotations = CocoAnnotations(coco.write(), coco.folder)
    np.testing.assert_array_equal(annotations.images[0].boxes, [[0, 15, 8, 20], [25, 0, 30, 5]])
    assert [problem.kept for problem in annotations.problems] == [True]
    assert annotations.ground_truth()["annotations"][0]["bbox"] == [-2, 15, 10, 9]


def test_the_report_lists_ten_problems_of_each_kind_and_counts_the_rest(coco, noise):
    image_id = coco.add_image(noise(20, 30))
    for _ in range(25):
        coco.add_box(image_id, [3, 2, 0, 4])
    coco.add_box(7, [3, 2, 1, 4])
    coco.add_box(8, [3, 2, 1, 4])
    with pytest.raises(ValueError) as raised:
        CocoAnnotations(coco.write())
    assert "27 problems" in str(raised.value)
    assert "and 15 more like the last, 25 in all" in str(raised.value)
    assert str(raised.value).count("has no area") == 10
    assert str(raised.value).count("no image with the id") == 2


def test_without_verification_files_only_have_to_exist(coco):
    coco.add_image((20, 30), "text.jpg")
    (coco.folder / "text.jpg").write_text("hello")
    coco.write()
    assert len(CocoAnnotations(coco.json, coco.folder, verify=False).images) == 1
    (coco.folder / "text.jpg").unlink()
    with pytest.raises(ValueError, match="no such file"):
        CocoAnnotations(coco.json, coco.folder, verify=False)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not a JSON file"),
        ("[" * 100_000, "not a JSON file"),
        ("[]", "must hold a JSON object"),
        (json.dumps({"images": [], "annotations": []}), "list under 'categories'"),
        (json.dumps({"images": {}, "annotations": [], "categories": []}), "list under 'images'"),
        (json.dumps({"images": [], "annotations": [], "categories": []}), "no usable image"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_is_not_coco_raises_in_both_modes(tmp_path, content, message, on_error):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        CocoAnnotations(path, on_error=on_error)
    assert "a.json" in str(raised.value)


def test_invalid_arguments_are_named(coco, noise):
    coco.add_image(noise(20, 30))
    coco.write()
    with pytest.raises(ValueError, match="existing file.*nowhere.json"):
        CocoAnnotations(coco.folder / "nowhere.json")
    with pytest.raises(ValueError, match="existing folder.*nowhere"):
        CocoAnnotations(coco.json, coco.folder / "nowhere")
    with pytest.raises(ValueError, match="`on_error` must be.*ignore"):
        CocoAnnotations(coco.json, on_error="ignore")


def test_a_clean_file_gives_no_warnings(coco, noise):
    coco.add_box(coco.add_image(noise(20, 30)), [0, 0, 30, 20])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CocoAnnotations(coco.write(), coco.folder)
