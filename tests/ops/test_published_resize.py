"""Resizing against the results of Pillow and OpenCV for a drawn image, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
from backend import run
from PIL import Image

from keras_dyhead.ops.published_resize import resize_like_opencv, resize_like_pillow

# "opencv_HxW" is `cv2.resize(image, (W, H))` of OpenCV 4.11 (5.0 gives the same), "pillow_HxW" is
# `image.resize((W, H), BILINEAR)` of Pillow 10.4, "opencv_half" of the upper 36 rows alone, to
# (27, 18), for which OpenCV has code of its own.
MADE = np.load(Path(__file__).parent / "data" / "published_resize.npz")
DRAWN = MADE["image"]
FUNCTIONS = {"pillow": resize_like_pillow, "opencv": resize_like_opencv}
SIZES = [tuple(map(int, name[7:].split("x"))) for name in MADE if name.startswith("pillow_")]


def made(library, size):
    return MADE[f"{library}_{size[0]}x{size[1]}"]


@pytest.mark.parametrize("library", FUNCTIONS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_value_is_the_librarys(library, size):
    """Enlarged, shrunk, stretched, unchanged, and a single pixel."""
    found = run(lambda images: FUNCTIONS[library](images, size), DRAWN[None])
    np.testing.assert_array_equal(found[0], made(library, size))
    array = FUNCTIONS[library](DRAWN[None], size)
    assert isinstance(array, np.ndarray) and array.dtype == "float32"
    np.testing.assert_array_equal(array[0], made(library, size))


def test_half_the_size_is_opencvs():
    found = run(lambda images: resize_like_opencv(images, (18, 27)), DRAWN[None, :36])
    np.testing.assert_array_equal(found[0], MADE["opencv_half"])


@pytest.mark.parametrize(
    ("size", "new_size"),
    [((480, 640), (800, 1067)), ((901, 1203), (312, 417)), ((640, 1600), (20, 50))],
    ids=str,
)
def test_photo_sized_images_are_pillows(size, new_size):
    """Where Pillow 13 also starts with columns."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), "uint8")
    found = run(lambda images: resize_like_pillow(images, new_size), image[None])
    expected = Image.fromarray(image).resize(new_size[::-1], Image.BILINEAR)
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("library", FUNCTIONS)
def test_images_of_a_batch_do_not_mix(library):
    batch = np.stack([DRAWN, DRAWN[::-1], 255 - DRAWN])

    def resize(together, *alone):
        return [FUNCTIONS[library](images, (61, 89)) for images in (together, *alone)]

    together, *alone = run(resize, batch, *batch[:, None])
    np.testing.assert_array_equal(together, np.concatenate(alone))


def resizing_graph(library):
    """A function of an image and a size, both unknown to the graph."""
    import tensorflow as tf

    signature = [tf.TensorSpec((1, None, None, 3), name="images"), tf.TensorSpec((2,), tf.int32)]
    resize = FUNCTIONS[library]
    return tf.function(
        lambda images, size: {"resized": resize(images, (size[0], size[1]))},
        input_signature=signature,
    )


def check_runtime(library, resize):
    for size in SIZES:
        found = resize(DRAWN[None].astype("float32"), np.array(size, "int32"))
        np.testing.assert_array_equal(found[0], made(library, size))


@pytest.mark.tensorflow
@pytest.mark.parametrize("library", FUNCTIONS)
def test_a_graph_of_unknown_sizes_gives_the_same(library):
    graph = resizing_graph(library)
    check_runtime(library, lambda images, size: graph(images, size)["resized"].numpy())


@pytest.mark.tensorflow
@pytest.mark.parametrize("library", FUNCTIONS)
def test_litert_gives_the_same(library):
    import tensorflow as tf

    graph = resizing_graph(library)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()])
    interpreter = tf.lite.Interpreter(model_content=converter.convert())

    def resize(images, size):
        places = {tuple(x["shape"]): x["index"] for x in interpreter.get_input_details()}
        (image_place,) = (index for shape, index in places.items() if len(shape) == 4)
        interpreter.resize_tensor_input(image_place, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(image_place, images)
        interpreter.set_tensor(places[(2,)], size)
        interpreter.invoke()
        return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])

    check_runtime(library, resize)


@pytest.mark.tensorflow
@pytest.mark.parametrize("library", FUNCTIONS)
def test_onnx_runtime_gives_the_same(library):
    """The size is in a row above the image, because the conversion takes one tensor."""
    import onnxruntime
    import tensorflow as tf

    from keras_dyhead.export.onnx import convert

    def resized(images):
        height, width = tf.unstack(tf.cast(images[0, 0, 0, :2], "int32"))
        return {"resized": FUNCTIONS[library](images[:, 1:], (height, width))}

    proto = convert(resized, tf.TensorSpec((1, None, None, 3), name="images"))
    session = onnxruntime.InferenceSession(proto.SerializeToString())

    def resize(images, size):
        row = np.zeros_like(images[:, :1])
        row[0, 0, 0, :2] = size
        return session.run(None, {"images": np.concatenate([row, images], axis=1)})[0]

    check_runtime(library, resize)
