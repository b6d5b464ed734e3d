"""RoIAlign against a float64 loop over samples and the features of released codes."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import run, vjp

from keras_dyhead.detectors.region_pooler import RegionPooler
from keras_dyhead.ops import chunks
from keras_dyhead.ops.roi_align import roi_align

REFERENCE = Path(__file__).parent / "data" / "roi_align.npz"


def sample(image, y, x):
    """Bilinear value; zero more than a pixel outside, the border nearer."""
    height, width = image.shape[:2]
    if not (-1 <= y <= height and -1 <= x <= width):
        return np.zeros(image.shape[-1])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    above = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
    below = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
    return above * (1 - y + top) + below * (y - top)


def loop(image, box, stride, size, sampling_ratio):
    left, top, right, bottom = (coordinate / stride - 0.5 for coordinate in box)
    height, width = (bottom - top) / size, (right - left) / size
    rows, columns = sampling_ratio or math.ceil(height), sampling_ratio or math.ceil(width)
    output = np.zeros((size, size, image.shape[-1]))
    for row in range(size):
        for column in range(size):
            values = [
                sample(
                    image,
                    top + height * (row + (i + 0.5) / rows),
                    left + width * (column + (j + 0.5) / columns),
                )
                for i in range(rows)
                for j in range(columns)
            ]
            output[row, column] = np.mean(values, axis=0) if values else 0
    return output


STRIDES = [4, 8]


def scene(seed=0):
    """Two images on two levels; small, large, thin, integer, outer and empty regions."""
    rng = np.random.default_rng(seed)
    maps = [rng.normal(size=(2, *size, 3)).astype("float32") for size in [(21, 30), (11, 15)]]
    corner, side = rng.uniform(-20, 90, (2, 9, 2)), rng.exponential(30, (2, 9, 2))
    special = [
        [0, 0, 120, 84],
        [8, 16, 36, 44],
        [-40, 10, 200, 14],
        [30, -60, 33.5, 150],
        [-90, -90, -50, -60],
        [20, 20, 20, 20],
        [118.3, 82.1, 130.9, 95.2],  # no sample exactly where they begin to count as zero
    ]
    boxes = np.concatenate([np.concatenate([corner, corner + side], -1), [special] * 2], axis=1)
    return maps, boxes.astype("float32"), rng.integers(0, 2, boxes.shape[:2]).astype("int32")


def static(size=7, sampling_ratio=None):
    """With shapes known beforehand, as JAX and XLA need."""

    def function(first, second, boxes, levels):
        return roi_align([first, second], boxes, levels, STRIDES, size, sampling_ratio, 21 * 30)

    return function


def expected(maps, boxes, levels, size, sampling_ratio):
    return np.array(
        [
            [
                loop(maps[level][b].astype("float64"), box, STRIDES[level], size, sampling_ratio)
                for box, level in zip(boxes[b].astype("float64"), levels[b], strict=True)
            ]
            for b in range(len(boxes))
        ]
    )


@pytest.mark.parametrize("sampling_ratio", [None, 1, 2, 5])
@pytest.mark.parametrize("size", [7, 3])
def test_every_bin_is_the_mean_of_its_samples(size, sampling_ratio):
    maps, boxes, levels = scene()
    if sampling_ratio:  # a region without area has samples only if their number is given
        boxes[:, -2] += [0, 0, 3, 3]
    wanted = expected(maps, boxes, levels, size, sampling_ratio)
    found = run(static(size, sampling_ratio), *maps, boxes, levels)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.abs(wanted).max(axis=(2, 3, 4)).min() == 0 < np.abs(wanted).max(axis=(2, 3, 4))[0, 0]


@pytest.mark.tensorflow
@pytest.mark.tensorflow
def test_xla_graphs_of_unknown_sizes_and_chunks_give_the_same(monkeypatch):
    import tensorflow as tf

    maps, boxes, levels = scene(1)
    wanted = run(static(), *maps, boxes, levels)

    def dynamic(first, second, boxes, levels):
        return roi_align([first, second], boxes, levels, STRIDES)

    unknown = [tf.TensorSpec((None, None, None, 3))] * 2
    unknown += [tf.TensorSpec((None, None, 4)), tf.TensorSpec((None, None), tf.int32)]
    for budget in (chunks.CHUNK_BYTES["cpu"], 200_000):
        monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", budget)
        for function in (
            dynamic,
            static(),
            tf.function(static(), jit_compile=True),
            tf.function(dynamic, input_signature=unknown),
        ):
            found = function(*map(tf.constant, [*maps, boxes, levels]))
            np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("budget", [2**30, 30_000])
def test_the_gradient_is_the_transpose_of_the_sampling(budget, monkeypatch):
    """Sampling is linear: gradient times any maps equals upstream gradient times their samples."""
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", budget)
    maps, boxes, levels = scene(2)
    other, _, _ = scene(3)
    upstream = np.random.default_rng(4).normal(size=(2, 16, 7, 7, 3)).astype("float32")

    def of_maps(first, second):
        return static()(first, second, boxes, levels)

    _, gradients = vjp(of_maps, maps, upstream)
    product = sum(np.sum(g * x) for g, x in zip(gradients, other, strict=True))
    sampled = np.sum(run(of_maps, *other) * upstream)
    np.testing.assert_allclose(product, sampled, rtol=1e-4)


@pytest.mark.tensorflow
def test_half_precision_maps_are_read_and_trained_in_their_dtype():
    import tensorflow as tf

    maps, boxes, levels = scene(5)
    variables = [tf.Variable(tf.cast(x, "bfloat16")) for x in maps]
    with tf.GradientTape() as tape:
        found = roi_align(variables, boxes, levels, STRIDES)
        total = tf.reduce_sum(found)
    assert found.dtype == tape.gradient(total, variables)[0].dtype == tf.bfloat16
    full = roi_align(maps, boxes, levels, STRIDES)
    np.testing.assert_allclose(tf.cast(found, "float32"), full, atol=0.05)


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": 2.5}, {"sampling_ratio": -1}, {"canonical_size": 0}], ids=str
)
def test_numbers_that_are_not_positive_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}` must be .* Received: {name}="):
        RegionPooler(**wrong)


@pytest.mark.parametrize("origin", ["microsoft", "openmmlab"])
def test_levels_and_features_are_the_released_codes(origin):
    """Some channels of the features that detectron2 and mmdet read from their own maps."""
    reference = {
        key.removeprefix(f"{origin}/"): value
        for key, value in np.load(REFERENCE).items()
        if key.startswith(origin)
    }
    pyramid = {f"P{n}": reference[f"P{n}"][None] for n in range(2, 6)}
    pooler = RegionPooler(epsilon={"microsoft": 1e-8, "openmmlab": 1e-6 / 4}[origin])
    boxes = reference["boxes"][None]
    levels = pooler.levels(boxes, 2, 5)[0]
    np.testing.assert_array_equal(levels, reference["levels"])
    assert set(reference["levels"]) == {2, 3, 4, 5}
    found = run(pooler, pyramid, boxes)[0]
    atol = 2e-5 * reference["features"].std()
    np.testing.assert_allclose(found, reference["features"], atol=atol)


@pytest.mark.parametrize("canonical_size", [224.0, 60.0])
def test_no_region_covers_more_pixels_than_static_shapes_allow_for(canonical_size):
    """Slivers of all lengths at every level's largest area are not cut off."""
    pyramid = {f"P{n}": np.ones((1, 160 // 2**n, 416 // 2**n, 1), "float32") for n in (2, 3, 4)}
    pooler = RegionPooler(canonical_size=canonical_size)
    boxes = []
    for level in (2, 3):
        area = (0.999 * canonical_size * 2.0 ** (level - 3)) ** 2
        for height in np.linspace(1, 160, 60):
            width = area / height
            boxes.append([1.3, 0.7, min(1.3 + width, 415), 0.7 + height])
            boxes.append([0.2, 0.1, 0.2 + height, min(0.1 + width, 159)])
    boxes.append([0, 0, 416, 160])
    found = run(pooler, pyramid, np.array([boxes], "float32"))
    np.testing.assert_allclose(found, 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 0), (0, 3), (0, 0)])
def test_no_regions_and_no_images_give_none(shape):
    maps = [np.ones((shape[0], n, n, 4), "float32") for n in (8, 4)]
    boxes, levels = np.zeros((*shape, 4), "float32"), np.zeros(shape, "int32")
    assert run(static(size=3), *maps, boxes, levels).shape == (*shape, 3, 3, 4)
    if keras.backend.backend() != "jax":  # JAX needs the number of pixels beforehand
        assert roi_align(maps, boxes, levels, STRIDES, size=3).shape == (*shape, 3, 3, 4)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integer_maps_are_read_in_float32(dtype):
    maps, boxes, levels = scene()
    maps = [np.round(100 + 20 * x).clip(0, 255).astype(dtype) for x in maps]
    found = run(static(), *maps, boxes, levels)
    expected = run(static(), *(x.astype("float32") for x in maps), boxes, levels)
    np.testing.assert_array_equal(found, expected)
