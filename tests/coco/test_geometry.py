"""Several canvases: the choice for each image, and one canvas per batch."""

from fractions import Fraction

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.coco import Augmentation, load_coco
from keras_dyhead.coco.geometry import assign_canvases
from keras_dyhead.detectors.preprocessor import DetectionPreprocessor

TWO = ((24, 40), (40, 24))
SIZES = [(20, 30), (30, 20), (33, 31), (16, 48), (48, 16), (20, 30), (24, 40), (30, 29), (20, 31)]


def best_canvas(height, width, canvases, limits):
    """The choice in exact arithmetic, canvas by canvas."""
    choices = []
    for index, (rows, columns) in enumerate(canvases):
        factor = min(Fraction(rows, height), Fraction(columns, width))
        if limits:
            factor = min(factor, Fraction(limits[0], min(height, width)))
            factor = min(factor, Fraction(limits[1], max(height, width)))
        choices.append((-factor, rows * columns, index))
    return min(choices)[2]


@pytest.mark.parametrize("limits", [None, (800, 1333), (480, 1333)])
@pytest.mark.parametrize(
    "canvases",
    [
        ((800, 1344), (1344, 800)),
        ((800, 1344), (1344, 800), (1088, 1088)),
        ((640, 640), (800, 800)),
        ((512, 512),),
    ],
)
def test_an_image_goes_to_the_canvas_where_it_is_largest_and_fills_most(canvases, limits):
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.integers(60, 2000, (300, 2)), [(480, 640), (640, 480), (500, 500)]])
    expected = [best_canvas(int(h), int(w), canvases, limits) for h, w in sizes]
    assert assign_canvases(sizes, canvases, limits).tolist() == expected


def test_the_published_rule_fills_the_two_published_canvases():
    """Shorter side 800, longer at most 1333: portrait images go to the portrait canvas."""
    sizes = [(480, 640), (640, 480), (427, 640), (500, 500), (100, 640), (640, 100)]
    chosen = assign_canvases(sizes, ((800, 1344), (1344, 800)), (800, 1333))
    assert chosen.tolist() == [0, 1, 0, 0, 0, 1]


@pytest.fixture
def mixed(coco, noise):
    for height, width in SIZES:
        coco.add_box(coco.add_image(noise(height, width)), [2, 3, 10, 9])
    coco.write()
    return coco


def test_images_match_a_preprocessor_without_a_canvas(mixed, noise):
    preprocessor = DetectionPreprocessor(
        min_side=20, max_side=36, pad_multiple=8, resizing="opencv"
    )
    dataset = load_coco(mixed.folder, mixed.json, 2, TWO, preprocessor=preprocessor)
    seen = []
    for images, targets in dataset:
        for image, image_id, scale, box in zip(
            images, targets["image_id"], targets["scale"], targets["boxes"][:, 0], strict=True
        ):
            expected = preprocessor([tf.constant(noise(*SIZES[int(image_id) - 1]))])
            height, width = expected["image_sizes"][0].numpy()
            np.testing.assert_array_equal(
                image[:height, :width], expected["images"][0, :height, :width]
            )
            assert np.count_nonzero(image[height:]) == np.count_nonzero(image[:, width:]) == 0
            np.testing.assert_allclose(scale, expected["scales"][0], rtol=1e-6)
            np.testing.assert_allclose(box, [2, 3, 12, 12] * np.tile(scale[::-1], 2), rtol=1e-5)
            seen.append(int(image_id))
    assert sorted(seen) == list(range(1, len(SIZES) + 1))


@pytest.mark.parametrize("shuffle, drop_remainder", [(False, False), (True, True)])
def test_a_batch_has_one_canvas_and_every_image_appears_once_per_epoch(
    mixed, shuffle, drop_remainder
):
    dataset = load_coco(
        *(mixed.folder, mixed.json, 2, TWO),
        shuffle=shuffle,
        seed=0,
        drop_remainder=drop_remainder,
    )
    assert dataset.element_spec[0].shape[1:].as_list() == [None, None, 3]
    for _ in range(2):
        batches = [(images.shape[1:3], targets["image_id"].numpy()) for images, targets in dataset]
        # 6 landscape or square images and 3 portrait ones: batches of 2, 2, 2 and 2, 1.
        assert len(batches) == int(dataset.cardinality()) == (4 if drop_remainder else 5)
        ids = np.concatenate([ids for _, ids in batches]).tolist()
        assert len(set(ids)) == len(ids) == (8 if drop_remainder else 9)
        for canvas, ids in batches:
            for height, width in (SIZES[image_id - 1] for image_id in ids):
                assert tuple(canvas) == TWO[best_canvas(height, width, TWO, None)]


def test_unshuffled_batches_come_in_the_order_in_which_they_fill(mixed):
    """Each batch comes at the position of its last image, incomplete batches at the end."""
    dataset = load_coco(mixed.folder, mixed.json, 2, TWO)
    upright = [best_canvas(h, w, TWO, None) == 1 for h, w in SIZES]
    waiting, expected = {True: [], False: []}, []
    for image_id, kind in enumerate(upright, start=1):
        waiting[kind].append(image_id)
        if len(waiting[kind]) == 2:
            expected.append(waiting[kind])
            waiting[kind] = []
    expected += [ids for ids in (waiting[False], waiting[True]) if ids]
    assert [targets["image_id"].numpy().tolist() for _, targets in dataset] == expected


def test_a_step_is_traced_once_per_canvas(mixed):
    dataset = load_coco(
        *(mixed.folder, mixed.json, 2, TWO), training=True, seed=0, drop_remainder=True
    )
    traces = []

    @tf.function
    def step(images):
        traces.append(tuple(images.shape))
        return tf.reduce_sum(images)

    for _ in range(3):
        for images, _ in dataset:
            step(images)
    assert sorted(traces) == [(2, *canvas, 3) for canvas in TWO]

    class Counting(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, images):
            traces.append(images.shape)
            return self.dense(keras.ops.mean(images, axis=(1, 2)))

    traces.clear()
    model = Counting()
    model.compile("sgd", "mse")
    plain = dataset.map(lambda x, y: (x / 255, y["labels"]))
    model.fit(plain, epochs=1, verbose=0)
    assert set(map(tuple, traces)) == {(2, None, None, 3)}  # one trace serves both
    traces.clear()
    model.fit(plain, epochs=2, verbose=0)
    assert not traces


def test_multi_scale_training_chooses_the_canvas_for_the_largest_size(coco, noise):
    """A canvas of 64x64 holds all sizes up to 40, but only 40x80 holds the largest unreduced."""
    coco.add_image(noise(20, 40))
    dataset = load_coco(
        *(coco.folder, coco.write(), 1, ((64, 64), (40, 80))),
        training=True,
        augmentation=Augmentation(sizes=(16, 40), max_side=80),
        seed=0,
    )
    heights = set()
    for images, _ in dataset.repeat(12):
        assert images.shape[1:3] == (40, 80)
        heights.add(int(np.count_nonzero(images[0, :, 0].numpy().sum(-1))))
    assert heights == {16, 40}
