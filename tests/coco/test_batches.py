"""`CocoDataset`: the batches of `load_coco` as arrays for every backend."""

import keras
import numpy as np
import pytest
from coco.scenes import SIZES
from PIL import Image

from keras_dyhead.coco import CocoAnnotations, CocoDataset, load_coco
from keras_dyhead.detectors import DetectionPreprocessor

PREPROCESSORS = {
    "none": None,
    "canvas": DetectionPreprocessor((64, 96)),
    "sides": DetectionPreprocessor(min_side=40, max_side=70, channel_order="BGR"),
    "opencv": DetectionPreprocessor((64, 96), resizing="opencv"),
}


@pytest.mark.parametrize("preprocessor", PREPROCESSORS.values(), ids=PREPROCESSORS)
def test_the_batches_are_those_of_load_coco(scenes, noise, preprocessor):
    for number, (height, width) in enumerate(SIZES):
        Image.fromarray(noise(height, width)).save(scenes.folder / f"{number + 1}.png")
    options = {"preprocessor": preprocessor, "max_boxes": 4}
    arrays = CocoDataset(scenes.folder, scenes.json, 2, (64, 96), **options)
    tensors = load_coco(scenes.folder, arrays.annotations, 2, (64, 96), **options)
    assert arrays.class_names == tensors.class_names and len(arrays) == len(tensors) == 3
    for (images, targets), (expected, truths) in zip(arrays, tensors, strict=True):
        assert images.dtype == expected.numpy().dtype == "float32"
        # A value halfway between two integers may be rounded to either.
        error = np.abs(images - expected)
        assert images.shape == expected.shape and np.mean(error > 1e-3) < 1e-4
        assert targets.keys() == truths.keys()
        for key, values in targets.items():
            assert values.dtype == truths[key].numpy().dtype
            np.testing.assert_array_equal(values, truths[key], err_msg=key)


def epochs_of(dataset, count=2):
    found = []
    dataset.on_epoch_end()  # as `fit` does before the first epoch
    for _ in range(count):
        dataset.on_epoch_begin()
        found.append(list(dataset))
        dataset.on_epoch_end()
    return found


def same(first, second):
    pairs = zip(first, second, strict=True)
    return all(
        np.array_equal(x, y) and all(np.array_equal(t[k], u[k]) for k in t)
        for (x, t), (y, u) in pairs
    )


def test_the_seed_determines_order_and_flips_of_every_epoch(scenes):
    def opened(**options):
        images = CocoAnnotations(scenes.json, scenes.folder)
        return CocoDataset(scenes.folder, images, 2, (64, 96), training=True, **options)

    first, second = epochs_of(opened(seed=1))
    assert not same(first, second) and "image_id" not in first[0][1]
    for epoch in (first, second):  # each image has its own gray value
        grays = {int(image.max()) for images, _ in epoch for image in images}
        assert grays == {10 * number for number in range(len(SIZES))}
    assert all(map(same, (first, second), epochs_of(opened(seed=1, workers=2))))
    later = opened(seed=1)
    later.epoch = 1
    assert same(second, list(later))
    assert not same(first, list(opened(seed=2)))
    assert len(opened(drop_remainder=True)) == 2


class Mean(keras.Model):
    """A tiny, fast model."""

    def build(self, shape):
        self.weight = self.add_weight(shape=(), initializer="ones")

    def call(self, images):
        return keras.ops.mean(images) * self.weight

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.square(y_pred)


def test_the_order_is_drawn_once_an_epoch(scenes, monkeypatch):
    dataset = CocoDataset(
        scenes.folder, scenes.json, 2, (64, 96), training=True, horizontal_flip=0, seed=123
    )
    draw, seeds = np.random.default_rng, []
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(seed) or draw(seed))
    assert not same(*epochs_of(dataset)) and len(dataset) == 3
    assert seeds == [(123, 0), (123, 1)]


def test_fit_advances_the_epoch_after_training(scenes):
    data = CocoDataset(scenes.folder, scenes.json, 2, (8, 8), training=True)
    data.epoch = 3
    model = Mean()
    model.build((None, 8, 8, 3))
    seen = []
    watch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda *_: seen.append(data.epoch))
    model.compile("sgd")
    for _ in range(2):
        model.fit(data, epochs=2, shuffle=False, callbacks=[watch], verbose=0)
    assert seen == [3, 4, 5, 6] and data.epoch == 7


def test_flipped_boxes_stay_on_their_objects(coco):
    picture = np.zeros((30, 40, 3), "uint8")
    picture[5:15, 4:10] = 255
    coco.add_box(coco.add_image(picture), [4, 5, 6, 10])
    coco.write()
    options = {"training": True, "seed": 0}
    seen = set()
    for epoch in range(8):
        for flip in (0.0, 0.5, 1.0):
            data = CocoDataset(coco.folder, coco.json, 1, (32, 48), horizontal_flip=flip, **options)
            data.epoch = epoch
            images, targets = data[0]
            rows, columns = np.nonzero(images[0, ..., 0] > 128)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(targets["boxes"][0, 0], found, atol=1)
            seen.add((flip, found[0] > 16))
    assert seen == {(0.0, False), (0.5, False), (0.5, True), (1.0, True)}


def test_a_file_that_becomes_unreadable_is_named_or_becomes_black(coco, noise):
    for _ in range(2):
        coco.add_box(coco.add_image(noise(20, 30) + 10), [1, 2, 9, 8])
    coco.write()
    datasets = {
        on_error: CocoDataset(coco.folder, coco.json, 2, (20, 30), on_error=on_error)
        for on_error in ("raise", "skip")
    }
    (whole, _), path = datasets["raise"][0], coco.folder / "2.png"
    for damage in (
        lambda: path.write_bytes(path.read_bytes()[:-200]),
        lambda: Image.new("RGB", (20, 30)).save(path),
        path.unlink,
    ):
        damage()
        with pytest.raises(ValueError, match=r"2\.png"):
            datasets["raise"][0]
        with pytest.warns(UserWarning, match=r"2\.png"):
            images, targets = datasets["skip"][0]
        np.testing.assert_array_equal(images[0], whole[0])
        assert not images[1].any() and targets["labels"].ravel().tolist() == [0, -1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": ((64, 64), (96, 64))}, "image_size=.*64"),
        ({"image_size": (0, 64)}, "image_size="),
        ({"image_size": None}, "`image_size` must be .* image_size=None"),
        ({"image_size": (64.5, 64)}, "image_size="),
        ({"batch_size": True}, "batch_size=True"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"horizontal_flip": 2}, "horizontal_flip=2"),
        ({"max_boxes": 0}, "max_boxes=0"),
        ({"batch_size": 2.0}, "integer of at least 1. Received: batch_size=2.0"),
        ({"seed": "one"}, "seed='one'"),
        ({"batch_size": 9, "drop_remainder": True}, "do not fill a batch of 9"),
        ({"preprocessor": "atss"}, "'atss'"),
    ],
)
def test_invalid_arguments_are_shown(scenes, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CocoDataset(scenes.folder, scenes.json, **arguments)
