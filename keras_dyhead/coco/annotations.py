"""A checked COCO annotation file."""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from keras_dyhead.coco.checks import (
    Problem,
    check_box,
    check_categories,
    check_images,
    check_on_error,
    check_records,
    name_record,
    read_coco_json,
    report_problems,
)
from keras_dyhead.coco.image_files import find_broken_images


@dataclasses.dataclass(eq=False)
class CocoImage:
    """One image of a data set with the boxes to learn from (no crowd regions).

    Args:
        id: The image id of the annotation file.
        path: The image file.
        height: Height in pixels.
        width: Width in pixels.
        boxes: float32 array of shape `(num_boxes, 4)`, xyxy pixels, clipped to the image.
        labels: float32 array of shape `(num_boxes,)`, indices into the class names.
    """

    id: int
    path: Path
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray


class CocoAnnotations:
    """A COCO annotation file, read, checked and indexed; `load_coco` opens one by itself.

    What is checked: the form of the JSON file; ids that are missing, duplicate or not integers;
    image files that are missing, cannot be decoded or have another size than annotated; boxes that
    are not four finite numbers, have no area, or lie outside their image; categories and images
    that annotations refer to. A box that reaches over the edge of its image is clipped and
    reported (from half a pixel on), never an error. EXIF orientations are not applied: boxes count
    on the pixels as they are stored.

    Args:
        annotations: Path of the JSON file.
        images: Folder that its file names are relative to, or `None` to leave the image files
            unchecked. Defaults to `None`.
        class_names: The category names to use, in the order of the labels: to select some, or to
            give a validation file the labels of the training file. Annotations of other
            categories are left out. `None` takes all, by ascending category id. Defaults to
            `None`.
        on_error: `"raise"` raises an error that lists all problems; `"skip"` leaves the offending
            items out, warns once and keeps the list in `problems`. Defaults to `"raise"`.
        verify: Whether to decode every image file once, in threads, to find broken ones. With
            `False` files must only exist. Defaults to `True`.

    Attributes:
        path: The JSON file.
        class_names: The name of each label.
        category_ids: The category id of each label.
        images: A list of `CocoImage`, in the order of the file.
        problems: A list of `Problem`: everything found.

    Raises:
        ValueError: If the file cannot be read as COCO annotations at all, if no image is left, or
            if `on_error="raise"` and anything in it cannot be used.

    Example:
    ```python
    annotations = CocoAnnotations("instances.json", "images", on_error="skip")
    print(annotations.class_names, len(annotations.images))
    for problem in annotations.problems:
        print(problem)
    ```
    """

    def __init__(
        self,
        annotations: str | os.PathLike,
        images: str | os.PathLike | None = None,
        *,
        class_names: Sequence[str] | None = None,
        on_error: str = "raise",
        verify: bool = True,
    ):
        check_on_error(on_error)
        self.path = Path(annotations)
        if images is not None and not Path(images).is_dir():
            raise ValueError(f"`images` must be an existing folder. Received: images={images!r}")
        content = read_coco_json(self.path, without=("segmentation",))
        self.problems: list[Problem] = []
        categories = check_categories(content["categories"], self.problems)
        self._set_classes(categories, class_names)
        self.images = self._open_images(content["images"], images, verify)
        known_ids = {r["id"] for r in content["images"] if _has_integer_id(r)}
        self._columns = self._open_annotations(
            content["annotations"], known_ids, {category["id"] for category in categories}
        )
        report_problems(self.problems, str(self.path), on_error)
        if not self.images:
            raise ValueError(f"{self.path} names no usable image.")

    def ground_truth(self, image_ids: Iterable[int] | None = None) -> dict[str, list[dict]]:
        """The annotations in COCO's own form, crowd regions and unclipped boxes included.

        Args:
            image_ids: The images to include. `None` takes all. Defaults to `None`.

        Returns:
            A dictionary with `images`, `annotations` and `categories`, as in the JSON file.
        """
        wanted = {image.id for image in self.images}
        wanted = wanted if image_ids is None else wanted.intersection(image_ids)
        return {
            "images": [
                {"id": i.id, "file_name": i.path.name, "height": i.height, "width": i.width}
                for i in self.images
                if i.id in wanted
            ],
            "annotations": self._records(wanted),
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(self.category_ids, self.class_names, strict=True)
            ],
        }

    def _records(self, image_ids: set[int]) -> list[dict]:
        columns = [column.tolist() for column in self._columns.values()]
        return [
            dict(zip(self._columns, values, strict=True))
            for values in zip(*columns, strict=True)
            if values[1] in image_ids
        ]

    def _set_classes(self, categories: list[dict], class_names: Sequence[str] | None) -> None:
        ids = {category["name"]: category["id"] for category in categories}
        if class_names is None:
            class_names = list(ids)
        if isinstance(class_names, str) or len(set(class_names)) != len(class_names):
            raise ValueError(
                f"`class_names` must be different names. Received: class_names={class_names!r}"
            )
        unused_id = max(ids.values(), default=0)
        for name in class_names:
            if name not in ids:  # a validation file may lack a class of the training file
                unused_id += 1
                ids[name] = unused_id
                message = (
                    f"no category of that name; the file has {[c['name'] for c in categories]}"
                )
                self.problems.append(Problem(f"class {name!r}", message, kept=True))
        self.class_names = list(class_names)
        self.category_ids = [ids[name] for name in class_names]

    def _open_images(self, records: list, folder, verify: bool) -> list[CocoImage]:
        records = check_images(records, self.problems)
        paths = [Path(folder or "") / record["file_name"] for record in records]
        faults: list[str | None] = [None] * len(records)
        if folder is not None:
            sizes = [(record["height"], record["width"]) for record in records]
            faults = find_broken_images(paths, sizes, decode=verify)
        images = []
        for record, path, fault in zip(records, paths, faults, strict=True):
            if fault:
                self.problems.append(Problem(name_record(record, "image"), fault))
                continue
            empty = np.zeros((0, 4), "float32"), np.zeros((0,), "float32")
            images.append(CocoImage(record["id"], path, record["height"], record["width"], *empty))
        return images

    def _open_annotations(
        self, records: list, known_images: set, known_categories: set
    ) -> dict[str, np.ndarray]:
        """Fills the boxes of the images, and returns what pycocotools is to see, in columns."""
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        images = {image.id: image for image in self.images}
        boxes: dict[int, list] = {image.id: [] for image in self.images}
        # A million records take a tenth of the memory in columns.
        columns = {key: [] for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")}

        def report(record, message, kept=False):
            self.problems.append(Problem(f"annotation {record['id']}", message, kept))

        keys = ("image_id", "category_id", "bbox")
        for record in check_records(records, "annotation", keys, self.problems):
            image_id, category_id = record["image_id"], record["category_id"]
            if not _is_in(image_id, known_images):
                report(record, f"there is no image with the id {image_id!r}")
                continue
            if not _is_in(category_id, known_categories):
                report(record, f"there is no category with the id {category_id!r}")
                continue
            if image_id not in images or category_id not in labels:
                continue  # of an image already reported, or of a class that is not wanted
            box, fault = check_box(record["bbox"], images[image_id].height, images[image_id].width)
            if fault:
                report(record, fault, kept=box is not None)
            if box is None:
                continue
            crowd = 1 if record.get("iscrowd") else 0
            if not crowd:
                boxes[image_id] += [*box, labels[category_id]]
            row = (record["id"], image_id, category_id, record["bbox"], _area(record), crowd)
            for column, value in zip(columns.values(), row, strict=True):
                column.append(value)
        for image in self.images:
            rows = np.array(boxes.pop(image.id), "float32").reshape(-1, 5)
            image.boxes, image.labels = rows[:, :4], rows[:, 4]
        return {key: np.array(values) for key, values in columns.items()}


def _has_integer_id(record) -> bool:
    return isinstance(record, dict) and isinstance(record.get("id"), int)


def _is_in(value, known: set) -> bool:
    return isinstance(value, int) and value in known


def _area(record: dict) -> float:
    area = record.get("area")
    if isinstance(area, (int, float)) and math.isfinite(area):
        return area
    return record["bbox"][2] * record["bbox"][3]
