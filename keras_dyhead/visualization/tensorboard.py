"""COCO metrics and pictures of detections for TensorBoard."""

import io
import itertools
import os

import numpy as np
from PIL import Image

from keras_dyhead.coco.annotations import CocoAnnotations, CocoImage
from keras_dyhead.coco.detections import xyxy_boxes
from keras_dyhead.coco.image_files import read_rgb
from keras_dyhead.coco.metrics import CocoResult
from keras_dyhead.needs import need_tensorflow
from keras_dyhead.printable import printable
from keras_dyhead.visualization.pictures import draw_detections, unique_stems

_PICTURES = 8
_LONGEST_SIDE = 640  # of each image in a pair


class TensorBoardLog:
    """Writes the metrics of evaluations and pictures of detections for TensorBoard.

    TensorBoard shows the twelve metrics as `coco/AP`, ..., the AP of every class as
    `class_AP/NAME`, and images as `detections/FILE`: ground truth on the left, detections on the
    right, each at most 640 pixels a side. Writing needs only TensorFlow.

    Args:
        log_dir: Folder of the event files.
        annotations: The ground truth. The first eight image files with boxes are drawn. Defaults
            to `None`: no pictures.

    Call arguments:
        step: Position on TensorBoard's axis, such as the epoch.
        result: A `CocoResult`.

    Example:
    ```python
    val = load_coco("val", "val.json", image_size=(512, 512))
    log = TensorBoardLog("logs", val.annotations)  # tensorboard --logdir logs
    model.fit(train, epochs=12, callbacks=[CocoEvaluation(val, on_result=log)])
    ```
    """

    def __init__(self, log_dir: str | os.PathLike, annotations: CocoAnnotations | None = None):
        need_tensorflow(type(self).__name__)
        self.log_dir = os.fspath(log_dir)
        self.annotations = annotations

    def __call__(self, step: int, result: CocoResult) -> None:
        import tensorflow as tf

        images = [] if self.annotations is None else self.annotations.images
        usable = (image for image in images if len(image.boxes) and image.path.is_file())
        shown = list(itertools.islice(usable, _PICTURES))
        writer = tf.summary.create_file_writer(self.log_dir)
        with writer.as_default(step):
            for name, value in result.figures.items():
                _write(f"coco/{name}", "scalars", np.float32(value))
            for record in result.per_class:
                _write(f"class_AP/{printable(record['name'])}", "scalars", np.float32(record["AP"]))
            for image, stem in zip(shown, unique_stems([x.path for x in shown]), strict=True):
                picture, encoded = self._draw(image, result.detections), io.BytesIO()
                picture.save(encoded, "PNG")
                size = [str(side) for side in picture.size]
                name = f"detections/{stem}{image.path.suffix}"
                _write(name, "images", np.array([*size, encoded.getvalue()], object))
        writer.close()

    def _draw(self, image: CocoImage, detections: np.ndarray) -> Image.Image:
        """Draws ground truth and detections side by side."""
        found = detections[detections["image_id"] == image.id]
        truth = {"boxes": image.boxes, "labels": image.labels}
        detected = {
            "boxes": xyxy_boxes(found["bbox"]),
            "labels": self.annotations.labels_of(found["category_id"].tolist()),
            "confidence": found["score"],
        }
        pixels, pair = read_rgb(image.path), []
        for objects in (truth, detected):
            drawn = draw_detections(pixels, objects, self.annotations.class_names)
            drawn.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
            pair.append(np.asarray(drawn))
        return Image.fromarray(np.hstack(pair))


def _write(name: str, plugin: str, value: np.ndarray) -> None:
    """Writes like `tf.summary.scalar` and `image`, which fail without TensorBoard."""
    import tensorflow as tf

    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data={"plugin_name": plugin},
        # 1 and 3 are SCALAR and BLOB_SEQUENCE
        data_class=1 if plugin == "scalars" else 3,
    )
    tf.summary.write(name, value, metadata=metadata)
