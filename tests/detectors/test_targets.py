"""Invalid targets are rejected before they reach the weights, however they are passed."""

import re
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from detectors.scenes import CLASSES, SMALL, scene, small_detector

from keras_dyhead.detectors.targets import check_classes, check_targets, target_error

IMAGES, TARGETS = scene()


def changed(key, place, value):
    values = TARGETS[key].astype("float32")
    values[place] = value
    return TARGETS | {key: values}


WRONG = {
    "the number of classes as a label": (changed("labels", (0, 1), CLASSES), "labels from 0 to 2"),
    "a label of another dataset": (changed("labels", (0, 0), 90), r"Received: \[90\.?\]"),
    "a label below -1": (changed("labels", (0, 0), -2), r"Received: \[-2\.?\]"),
    "a fractional label": (changed("labels", (0, 0), 0.5), r"Received: \[0.5\]"),
    "a label that is NaN": (changed("labels", (0, 0), np.nan), r"Received: \[nan\]"),
    "a box that is NaN": (changed("boxes", (0, 0, 2), np.nan), "finite boxes.*8.* 8.* nan 44"),
    "an infinite box": (changed("boxes", (0, 1, 3), np.inf), "finite boxes.*inf"),
    "boxes relative to the image size": (
        TARGETS | {"boxes": TARGETS["boxes"] / 128},
        "boxes in pixels, not fractions of the image size.*0.06",
    ),
    "boxes relative to the image size, with all of an image": (
        TARGETS
        | {"boxes": np.array([[[0, 0, 1, 1], [0.5, 0, 1, 1], [0, 0, 1, 1]]] * 2, "float32")},
        "boxes in pixels, not fractions of the image size",
    ),
    "a box as x, y, width, height": (changed("boxes", (0, 0, 2), 7), "left, top, right, bottom"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_every_error_is_explained_eagerly_and_in_a_graph(wrong):
    targets, message = WRONG[wrong]
    with pytest.raises(ValueError, match=message):
        check_targets((IMAGES, targets), CLASSES)
    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        tf.function(check_targets)((IMAGES, targets), CLASSES)
    assert re.search(message, str(target_error(raised.value)))
    assert len(str(target_error(raised.value))) < 120  # without TensorFlow's additions


def test_padding_may_be_anything():
    padding = TARGETS["labels"] < 0
    targets = TARGETS | {"boxes": np.where(padding[..., None], np.nan, TARGETS["boxes"])}
    images, checked = check_targets((IMAGES, targets), CLASSES)
    np.testing.assert_array_equal(checked["boxes"], targets["boxes"])
    np.testing.assert_array_equal(images, IMAGES)


@pytest.mark.parametrize("boxes", [[[0.5, 0, 0.75, 1]], [[0, 0, 1, 1], [0, 0, 1, 1]], []])
def test_objects_in_the_first_pixel_may_exist(boxes):
    boxes = np.array(boxes, "float32").reshape(1, -1, 4)
    targets = {"boxes": boxes, "labels": np.zeros(boxes.shape[:2], "float32")}
    check_targets((IMAGES[:1], targets), CLASSES)


@pytest.mark.parametrize("traced", [False, True])
def test_a_device_without_an_image_of_a_batch_is_explained(traced):
    """A smaller last batch may leave none for it."""
    check = tf.function(check_targets) if traced else check_targets
    targets = {key: values[:0] for key, values in TARGETS.items()}
    message = r"at least one per device in each batch.*drop a smaller last.*Received: \[0\]"
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
        check((IMAGES[:0], targets), CLASSES, num_devices=2)
    check((IMAGES[:0], targets), CLASSES)


@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 2)), ((2, 3, 4), (2, 3, 3)), ((3, 4), (3,))])
def test_mismatched_shapes_are_in_the_message(shapes):
    boxes, labels = map(np.zeros, shapes)
    with pytest.raises(ValueError, match="Received shapes"):
        check_targets((IMAGES, {"boxes": boxes, "labels": labels}), CLASSES)


def test_text_is_refused():
    with pytest.raises(ValueError, match="Targets must be numbers.*string"):
        check_targets((IMAGES, TARGETS | {"labels": np.full((2, 3), "cat")}), CLASSES)


def test_a_rank_that_the_graph_does_not_know_is_checked():
    @tf.function(input_signature=[tf.TensorSpec(None, "float32")] * 3)
    def check(images, boxes, labels):
        images, targets = check_targets((images, {"boxes": boxes, "labels": labels}), CLASSES)
        assert images.shape.rank == 4
        return targets["boxes"]

    boxes, labels = TARGETS["boxes"], TARGETS["labels"].astype("float32")
    np.testing.assert_array_equal(check(IMAGES, boxes, labels), boxes)
    for *wrong, what in (
        (IMAGES, boxes[0], labels, "labels (B, N)"),
        (IMAGES, boxes[..., :3], labels, "labels (B, N)"),
        (IMAGES, boxes, labels[0], "labels (B, N)"),
        (IMAGES[0], boxes, labels, "Images must be (B, height, width, channels)"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError) as raised:
            check(*wrong)
        assert f"{what}. Received: [" in str(target_error(raised.value))


def calls(model, images, targets):
    dataset = tf.data.Dataset.from_tensors((images, targets))
    yield lambda: model.fit(images, targets, verbose=0)
    yield lambda: model.fit(dataset, verbose=0)
    yield lambda: model.fit(((images, targets) for _ in range(1)), steps_per_epoch=1, verbose=0)
    yield lambda: model.train_on_batch(images, targets)
    yield lambda: model.test_on_batch(images, targets)
    yield lambda: model.evaluate(dataset, verbose=0)


@pytest.mark.filterwarnings("ignore:.*`shuffle=True` was passed")
@pytest.mark.parametrize("options", [{"run_eagerly": True}, {}, {"jit_compile": True}], ids=str)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "atss" else pytest.mark.slow) for n in SMALL]
)
def test_an_out_of_range_label_stops_every_method_and_changes_no_weight(name, options):
    model = small_detector(name, image_shape=(64, 96, 3))
    model.compile("sgd", **options)
    targets, message = WRONG["the number of classes as a label"]
    before = model.get_weights()
    for call in calls(model, IMAGES, targets):
        with pytest.raises(ValueError, match=message):
            call()
    for ours, theirs in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "atss"])
def test_every_detector_rejects_an_out_of_range_label(name):
    model = small_detector(name)
    model.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="labels from 0 to 2"):
        model.train_on_batch(IMAGES, WRONG["the number of classes as a label"][0])


def test_ragged_targets_train_like_dense_ones():
    lengths = (TARGETS["labels"] >= 0).sum(axis=1)
    ragged = {
        key: tf.RaggedTensor.from_row_lengths(values[TARGETS["labels"] >= 0], lengths)
        for key, values in TARGETS.items()
    }
    model = small_detector("fcos")
    model.compile("sgd", run_eagerly=True)
    dense, same = (
        model.evaluate(tf.data.Dataset.from_tensors((IMAGES, t)), verbose=0)
        for t in (TARGETS, ragged)
    )
    np.testing.assert_allclose(same, dense)


class Named(keras.utils.PyDataset):
    class_names = ["ant", "bee", "cat"]

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return IMAGES, TARGETS


def test_a_model_takes_the_names_of_its_data_and_rejects_others(monkeypatch):
    model = small_detector("fcos")
    model.compile("sgd", run_eagerly=True)
    monkeypatch.setattr(model, "train_step", lambda data: {"loss": tf.zeros(())})
    model.fit(Named(), verbose=0)
    assert model.class_names == ("ant", "bee", "cat")
    other = Named()
    other.class_names = ["ant", "cat", "bee"]
    for call in (
        lambda: model.fit(other, verbose=0),
        lambda: model.evaluate(other, verbose=0),
        lambda: model.fit(Named(), validation_data=other, verbose=0),
    ):
        with pytest.raises(ValueError, match="The model has the classes .*'ant', 'cat', 'bee'"):
            call()


@pytest.mark.parametrize(
    ("known", "data"), [(["a"], ["a", "b"]), (["a", "b"], ["a"]), (3, ["a", "b"]), (1, ["a", "b"])]
)
def test_different_numbers_of_classes_are_rejected(known, data):
    names = {"num_classes": known} if isinstance(known, int) else {"class_names": known}
    with pytest.raises(ValueError, match=f"the data have {len(data)}: "):
        check_classes(types.SimpleNamespace(**names), types.SimpleNamespace(class_names=data))


def test_an_image_shape_without_three_channels_is_rejected():
    for shape in ((None, None, 1), (64, 64, 4), (64, 64)):
        with pytest.raises(ValueError, match=r"`image_shape` must be \(height, width, 3\)"):
            small_detector("atss", image_shape=shape)
