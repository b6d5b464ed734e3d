"""Order and augmentation depend only on seed, epoch and image."""

import itertools

import keras
import numpy as np
import pytest

from keras_dyhead.coco import Augmentation, CocoAnnotations, load_coco
from keras_dyhead.coco.epochs import EpochCounter, batches_of_rows, count_batches

COUNT, BATCH = 7, 2
CANVASES = {"one canvas": (16, 24), "two canvases": ((16, 24), (24, 16))}
EVERYTHING = Augmentation(scale=(0.5, 1.5), crop=0.5, crop_size=(8, 12), brightness=0.1, hue=0.05)


@pytest.fixture
def data(coco, noise):
    for number in range(COUNT):
        coco.add_box(
            coco.add_image(noise(16, 20 + number) if number % 3 else noise(24, 16)), [1, 1, 9, 9]
        )
    return coco.folder, CocoAnnotations(coco.write(), coco.folder)


def load(data, canvases="one canvas", **options):
    form = {"training": True, "seed": 5} | options
    return load_coco(*data, BATCH, CANVASES[canvases], **form)


def epoch(dataset):
    return [
        (images.numpy(), targets["boxes"].numpy(), targets["labels"].numpy())
        for images, targets in dataset
    ]


def assert_same(ones, others):
    for one, other in zip(ones, others, strict=True):
        for array, expected in zip(one, other, strict=True):
            np.testing.assert_array_equal(array, expected)


def test_three_epochs_are_two_and_a_data_set_reopened_at_the_third_or_within_the_second(data):
    form = {"canvases": "two canvases", "augmentation": EVERYTHING}
    dataset = load(data, **form)
    epochs = [epoch(dataset) for _ in range(3)]
    for one, other in itertools.combinations(epochs, 2):
        assert not np.array_equal(one[0][0], other[0][0])
    third = load(data, **form, initial_epoch=2)
    assert_same(epoch(third), epochs[2])
    within = load(data, **form, initial_epoch=1, initial_step=2)
    assert_same(epoch(within), epochs[1][2:])
    assert_same(epoch(within), epochs[2])
    for reopened in (third, within):
        assert int(reopened.cardinality()) == int(dataset.cardinality()) == len(epochs[0])


def test_interrupted_iterations_count_and_the_epoch_can_be_set(data):
    """Repeated datasets also advance the epochs."""
    dataset = load(data)
    epochs = epoch(dataset) + epoch(dataset)
    for _ in dataset:
        break
    assert dataset.epochs.get() == 3
    dataset.epochs.set(0)
    assert_same(epoch(dataset.repeat(2)), epochs)


def test_augmentation_of_an_image_does_not_depend_on_other_images(data):
    """An image is varied equally without other images or with them in another order."""
    folder, annotations = data
    wanted = annotations.images[4]
    fewer = CocoAnnotations(annotations.path, folder)
    fewer.images = [wanted]
    alone = load((folder, fewer), initial_epoch=3)
    images = [image for batch, *_ in epoch(load(data, initial_epoch=3)) for image in batch]
    (((one,), *_),) = epoch(alone)
    assert sum(np.array_equal(one, image) for image in images) == 1
    assert wanted.id == 5


def test_image_ids_lists_the_images_of_a_batch(data):
    dataset = load(data, "two canvases", training=False, shuffle=True)
    for number in range(2):
        delivered = [targets["image_id"].numpy().tolist() for _, targets in dataset]
        for step in (number, 3):
            assert dataset.image_ids(number, step) == delivered[step]
    with pytest.raises(ValueError, match="`step` must be"):
        dataset.image_ids(0, len(dataset))


def test_every_order_of_a_few_images_is_equally_likely():
    """720 epochs of three rows: each of the six orders about 120 times."""
    rows = batches_of_rows([0, 0, 0], 3, EpochCounter(), shuffle=True, seed=1)
    orders = [tuple(batch) for _, batch in rows.repeat(720).as_numpy_iterator()]
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    assert ((counts - 120) ** 2 / 120).sum() < 20.5  # chi square, 5 degrees of freedom, 0.1 %


@pytest.mark.parametrize(
    "batch_size, drop_remainder", [(1, False), (2, True), (3, False), (9, True)]
)
def test_the_number_of_batches_is_known_in_advance(batch_size, drop_remainder):
    canvas_of_row = [0, 1, 1, 0, 2, 1, 1, 1]
    rows = batches_of_rows(canvas_of_row, batch_size, EpochCounter(), drop_remainder=drop_remainder)
    batches = [batch.numpy().tolist() for _, batch in rows]
    assert len(batches) == count_batches(canvas_of_row, batch_size, drop_remainder)
    assert all(len({canvas_of_row[row] for row in batch}) == 1 for batch in batches)
    if not drop_remainder:
        assert sorted(sum(batches, [])) == list(range(8))


def test_fit_resumes_within_an_epoch_and_then_trains_whole_epochs(data):
    dataset = load(data, initial_epoch=1, initial_step=3)
    model = keras.Sequential([keras.Input((16, 24, 3)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(1))
    model.compile("sgd", "mse")
    steps = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: steps.append(0),
        on_train_batch_end=lambda batch, logs: steps.append(steps.pop() + 1),
    )
    plain = dataset.map(lambda x, y: (x / 255, y["labels"][:, :1]))
    plain.cardinality = dataset.cardinality
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(plain, initial_epoch=1, epochs=4, callbacks=[count], verbose=0)
    assert steps == [1, 4, 4]
