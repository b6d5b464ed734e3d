"""Image decoding in TensorFlow graphs, for `tf.data`."""

import tensorflow as tf


def read_image(path: tf.Tensor) -> tf.Tensor:
    """Reads a JPEG or PNG file of any color type as RGB, uint8 `(height, width, 3)`.

    EXIF orientations are not applied: COCO boxes refer to the pixels as stored.
    """
    return decode_rgb(tf.io.read_file(path))


def decode_rgb(content: tf.Tensor) -> tf.Tensor:
    """Decodes the bytes of a file, see `read_image`. JPEG files give the same pixels as Pillow."""
    image = tf.cond(
        tf.io.is_jpeg(content),
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
    )
    image = tf.ensure_shape(image, (None, None, 3))
    is_bmp = tf.strings.substr(content, 0, 2) == "BM"
    return tf.cond(is_bmp, lambda: _apply_palette(content, image), lambda: image)


def _apply_palette(content: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    """The colors of a BMP file with a palette, for which TensorFlow returns indices."""
    header = tf.cast(tf.io.decode_raw(tf.strings.substr(content, 10, 20), tf.uint16), "int32")
    begin, end = 14 + header[2], header[0] + header[1] * 65536
    colors = tf.strings.substr(content, begin, (end - begin) // 4 * 4)
    colors = tf.reshape(tf.io.decode_raw(colors, tf.uint8), (-1, 4))[:, 2::-1]  # from BGR0
    is_indexed = header[9] == 8  # bits per pixel
    return tf.cond(
        is_indexed, lambda: tf.gather(colors, tf.cast(image[..., 0], "int32")), lambda: image
    )


def read_or_empty(path: tf.Tensor) -> tf.Tensor:
    """Reads a file like `read_image`, or returns a `(0, 0, 3)` image if that fails."""
    image = tf.data.Dataset.from_tensors(path).map(read_image).ignore_errors()
    empty = tf.data.Dataset.from_tensors(tf.zeros((0, 0, 3), "uint8"))
    return image.concatenate(empty).take(1).get_single_element()
