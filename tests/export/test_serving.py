"""The preprocessing of exported graphs against TensorFlow's."""

import numpy as np
import pytest
import tensorflow as tf
from export.small_detectors import small_retinanet

from keras_dyhead.detectors import DetectionPreprocessor
from keras_dyhead.export import export_litert, export_onnx
from keras_dyhead.export.litert import _IntegerPreprocessor
from keras_dyhead.export.serving import PortablePreprocessor, servable


@pytest.mark.parametrize("size", [(60, 90), (48, 31), (301, 217), (24, 20), (1000, 750)])
def test_matrix_products_resize_like_tensorflow(size):
    """To float32's accuracy, and after rounding, except for values at the rounding threshold."""
    config = {"min_side": 48, "max_side": 80, "pad_multiple": 32}
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3)).astype("float32")
    published, portable = DetectionPreprocessor(**config), PortablePreprocessor(**config)
    expected = published(image)
    batch = tf.function(portable, input_signature=[tf.TensorSpec((None, None, None, 3))])(image)
    for name in ("image_sizes", "scales"):
        np.testing.assert_array_equal(batch[name], expected[name])

    height, width = published.resized_size(*size)
    values = published.interpolate(tf.constant(image), (height, width)).numpy()
    found = portable.interpolate(image, (height, width)).numpy()
    np.testing.assert_allclose(found, values, rtol=0, atol=2e-4)
    # `resize` rounds up from a fraction of 0.4994. Values near it may differ by 1.
    turns = np.abs((values + 0.5006 + 0.5) % 1 - 0.5) < 2e-4
    assert turns.sum() < 20
    allowed = np.full_like(expected["images"], 1e-5)
    allowed[:, :height, :width] += turns / np.array(published.std)
    assert (np.abs(batch["images"] - expected["images"]) <= allowed).all()


@pytest.mark.parametrize("resizing", ["pillow", "opencv"])
def test_published_resizing_is_the_same_in_exports(resizing):
    config = {"min_side": 48, "max_side": 80, "pad_multiple": 32, "resizing": resizing}
    image = np.random.default_rng(0).integers(0, 256, (1, 48, 31, 3)).astype("float32")
    expected = DetectionPreprocessor(**config)(image)
    found = PortablePreprocessor(**config)(image)
    np.testing.assert_array_equal(found["images"], expected["images"])


def test_integer_arithmetic_gives_the_sizes_of_the_published_rule():
    """`int(side * factor + 0.5)` in float64, except where float64 misses an exact half."""
    portable, published = _IntegerPreprocessor((320, 480)), DetectionPreprocessor((320, 480))
    for height in range(1, 700, 31):
        for width in range(1, 700, 23):
            factor = min(320 / height, 480 / width)
            if all(abs(side * factor % 1 - 0.5) > 1e-9 for side in (height, width)):
                found = [int(n) for n in portable.resized_size(height, width)]
                assert found == list(published.resized_size(height, width)), (height, width)


class Halved(DetectionPreprocessor):
    """Normalizes in its own way, which matrix products for the resizing would not keep."""

    def normalize(self, images):
        return super().normalize(images) / 2


@pytest.mark.parametrize("export", [export_onnx, export_litert])
@pytest.mark.parametrize("given", [True, False])
def test_a_preprocessor_with_its_own_methods_is_refused(export, given, tmp_path):
    own = Halved((64, 64))
    model = small_retinanet() if given else small_retinanet(preprocessor=own)
    with pytest.raises(ValueError, match="export_saved_model also keeps .*=<Halved"):
        export(model, tmp_path / "model", preprocessor=own if given else None)
    assert isinstance(servable(model, preprocessor=own)[1], Halved)


@pytest.mark.parametrize(
    ("export", "conversion"),
    [(export_onnx, "onnx.convert"), (export_litert, "litert.serving_archive")],
)
def test_a_missing_folder_is_made_before_the_conversion(export, conversion, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise InterruptedError

    monkeypatch.setattr(f"keras_dyhead.export.{conversion}", interrupt)
    with pytest.raises(InterruptedError):
        export(small_retinanet(), tmp_path / "new" / "model", image_size=(64, 64))
    assert (tmp_path / "new").is_dir()
    with pytest.raises(ValueError, match="new cannot be written: .*new is not a writable file"):
        export(small_retinanet(), tmp_path / "new", image_size=(64, 64))
