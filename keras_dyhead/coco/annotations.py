"""A checked COCO annotation file."""

import dataclasses
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_dyhead.coco.boxes import check_boxes
from keras_dyhead.coco.checks import (
    Problem,
    check_categories,
    check_images,
    name_record,
    read_coco_json,
    report_problems,
)
from keras_dyhead.coco.fields import (
    Id,
    are_int64,
    box_of_polygons,
    find_id,
    highest_id,
    id_array,
    id_key,
    index_ids,
    read_area,
    read_box,
    read_flag,
    read_id,
    read_name,
)
from keras_dyhead.coco.image_files import find_file, inspect_images, real_paths
from keras_dyhead.ops.arguments import check, check_choice


@dataclasses.dataclass(eq=False)
class CocoImage:
    """An image of a dataset with its boxes, crowd regions excluded.

    Args:
        id: The image id as the annotation file spells it, an integer or text.
        number: The id as an integer. If any id in the file spells none or exceeds int64, it is the
            position of the image in the file, counted from 1.
        path: Path of the image file.
        height: Height in pixels.
        width: Width in pixels.
        boxes: float32 array of shape `(num_boxes, 4)`, xyxy pixels, clipped to the image.
        labels: float32 array of shape `(num_boxes,)`, indices into the class names.
    """

    id: Id
    number: int
    path: Path
    height: int
    width: int
    boxes: np.ndarray
    labels: np.ndarray


class CocoAnnotations:
    """A COCO annotation file, read, checked and indexed. `load_coco` opens one itself.

    Unambiguous content is read: numbers as text, `640.0`, flags as words, text ids, "007" for 7,
    UTF-8 or UTF-16 with or without a byte order mark, backslashes in file names. Everything else is
    reported: ids that are missing or used twice; image files that are missing, cannot be decoded or
    differ in size from their annotations; boxes that are not four finite numbers, have no area, lie
    outside their image or seem to use another format than `[x, y, width, height]` in pixels;
    unknown categories and images. Annotation ids may be missing or repeat; a box that is listed
    twice with the same id is used once. Missing heights and widths come from the image files,
    missing boxes from polygons, missing areas from the boxes. A box beyond the edge of its image is
    clipped, and reported from half a pixel on, but never an error. Nor are two images of the same
    file, which are reported. EXIF orientations are not applied: boxes refer to the pixels as
    stored.

    Args:
        annotations: Path of the JSON file.
        images: Folder of the image files. Defaults to `None`: they are not checked.
        class_names: The category names to use, in label order, to select categories or to give a
            validation file the labels of the training file. Annotations of other categories are
            left out. Defaults to `None`: all, by ascending id, integers (also "7") before text.
        on_error: `"raise"` raises an error that lists all problems. `"skip"` leaves out unusable
            items, warns once and keeps the list in `problems`. Defaults to `"raise"`.
        verify: Whether to decode every image file once, in threads, to find broken ones. With
            `False`, files only have to exist. Defaults to `True`.

    Attributes:
        path: The JSON file.
        class_names: The name of each label.
        category_ids: The category id of each label, as the file spells it.
        other_classes: Names of the categories that `class_names` leaves out.
        images: A list of `CocoImage`, in file order.
        positions: The positions of the used annotations in the file, crowd regions included.
        problems: All problems found, a list of `Problem`.

    Raises:
        ValueError: If the file is not a COCO annotation file, no image is left, none of
            `class_names` is a category, or, with `on_error="raise"`, any item cannot be used.

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
        check_choice("on_error", on_error, ("raise", "skip"))
        self.path = Path(annotations)
        check("images", images, images is None or Path(images).is_dir(), "an existing folder")
        content = read_coco_json(self.path, object_hook=_without_segmentation)
        self.problems: list[Problem] = []
        categories = check_categories(content["categories"], content["annotations"], self.problems)
        self._set_classes(categories, class_names)
        records = check_images(content["images"], images is None, self.problems)
        self.images = self._open_images(records, images, verify)
        self._open_annotations(content, set(categories.values()))
        report_problems(self.problems, str(self.path), on_error)
        if not self.images:
            raise ValueError(f"{self.path} has no usable images.")

    def ground_truth(self, image_ids: Iterable[Id] | None = None) -> dict[str, list[dict]]:
        """Returns the annotations in COCO's format, with crowd regions and unclipped boxes.

        Args:
            image_ids: The images to include. `None` includes all. Defaults to `None`.

        Returns:
            A dictionary with `images`, `annotations` and `categories`, as in the JSON file, with
            values as they were read. Annotations are renumbered if ids repeat or are missing.
        """
        wanted = {image.id for image in self.images}
        if image_ids is not None:
            index = index_ids(wanted)
            wanted = {find_id(image_id, index) for image_id in image_ids}
        columns = [column.tolist() for column in self._columns.values()]
        boxes = (dict(zip(self._columns, row, strict=True)) for row in zip(*columns, strict=True))
        return {
            "images": [
                {"id": i.id, "file_name": i.path.name, "height": i.height, "width": i.width}
                for i in self.images
                if i.id in wanted
            ],
            "annotations": [box for box in boxes if box["image_id"] in wanted],
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(self.category_ids, self.class_names, strict=True)
            ],
        }

    def labels_of(self, category_ids: Iterable[Id]) -> list[int]:
        """Returns the label of each category id, such as those of `CocoResult.detections`.

        Raises:
            ValueError: If an id is not among `category_ids`.
        """
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        index, category_ids = index_ids(labels), list(category_ids)
        found = {i: labels.get(find_id(i, index)) for i in category_ids}
        if unknown := [i for i, label in found.items() if label is None]:
            raise ValueError(
                f"Category ids must be among {self.category_ids[:20]}. Received: {unknown[:20]}"
            )
        return [found[i] for i in category_ids]

    def _set_classes(self, categories: dict[str, Id], class_names: Sequence[str] | None) -> None:
        names = list(categories)
        if class_names is not None:
            listed = isinstance(class_names, Iterable) and not isinstance(class_names, str | bytes)
            names = [read_name(name) for name in class_names] if listed else []
            unique = 0 < len(names) == len(set(names)) and None not in names
            check("class_names", class_names, unique, "a list of unique names, at least one")
            if categories and categories.keys().isdisjoint(names):
                raise ValueError(
                    f"{self.path} has no class in common with `class_names`: its categories are "
                    f"{list(categories)[:20]}. Received: class_names={names[:20]}"
                )
        ids = dict(categories)
        unused_id = highest_id(ids.values())
        for name in names:
            if name not in ids:  # a validation file may lack a class of the training file
                unused_id += 1
                ids[name] = unused_id
                message = f"not a category of the file, which has {list(categories)[:20]}"
                self.problems.append(Problem(f"class {name!r}", message, kept=True))
        self.class_names = names
        self.category_ids = [ids[name] for name in names]
        self.other_classes = [name for name in categories if name not in names]

    def _open_images(self, records: list[dict], folder, verify: bool) -> list[CocoImage]:
        sizes = [record["size"] for record in records]
        if folder is None:
            paths = [Path(record["file_name"]) for record in records]
            found = [(size, None) for size in sizes]
        else:
            paths = [find_file(Path(folder), record["file_name"]) for record in records]
            found = inspect_images(paths, sizes, decode=verify)
        numbers = [id_key(record["id"]) for record in records]
        if not are_int64(numbers):
            numbers = [record["position"] + 1 for record in records]
        images, names = [], []
        for record, number, path, (size, fault) in zip(records, numbers, paths, found, strict=True):
            if fault:
                self.problems.append(Problem(name_record(record, "image"), fault))
                continue
            empty = np.zeros((0, 4), "float32"), np.zeros((0,), "float32")
            images.append(CocoImage(record["id"], number, path, *size, *empty))
            names.append(name_record(record, "image"))
        paths = [image.path for image in images]
        first, files = {}, map(_plain_path, paths) if folder is None else real_paths(paths)
        for name, file in zip(names, files, strict=True):
            if (other := first.setdefault(file, name)) != name:
                message = f"has the same file as {other}: its pixels are used twice"
                self.problems.append(Problem(name, message, kept=True))
        return images

    def _open_annotations(self, content: dict[str, list], usable_categories: set[Id]) -> None:
        """Fills in the boxes of the images, and stores the records for pycocotools in columns."""
        records = content["annotations"]
        known_images, known_categories = (
            index_ids(read_id(r.get("id")) for r in content[key] if isinstance(r, dict))
            for key in ("images", "categories")
        )
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        rows = {image.id: row for row, image in enumerate(self.images)}
        ids = [id_key(read_id(r.get("id"))) if isinstance(r, dict) else None for r in records]
        counts = Counter(ids)
        numbered = None in counts or len(counts) < len(ids)

        def report(position, message, kept=False):
            found = ids[position]
            name = "annotation" if found is None else f"annotation {found}"
            place = f" at position {position}" if found is None or counts[found] > 1 else ""
            self.problems.append(Problem(name + place, message, kept))

        # Columns take a tenth of the memory of records.
        columns = {key: [] for key in ("position", "category_id", "bbox", "area", "iscrowd")}
        row_of_box, seen, lost = [], set(), Counter()
        for position, record in enumerate(records):
            values, fault = _read_annotation(record, known_images, known_categories)
            if fault:
                report(position, fault)
                continue
            image_id, category_id, box, area, crowd = values
            if image_id not in rows:
                continue  # the image is already reported
            if category_id not in labels:  # the class is left out, or its category is reported
                lost[category_id] += category_id not in usable_categories
                continue
            if counts[ids[position]] > 1 and ids[position] is not None:
                same = ids[position], image_id, category_id, *box, crowd
                if same in seen:
                    report(position, "is listed twice and used once", kept=True)
                    continue
                seen.add(same)
            if area is None:
                area = max(0.0, box[2] * box[3])
                if record.get("area") is not None:
                    message = f"its area {record['area']!r:.80} is invalid; the box area is used"
                    report(position, message, kept=True)
            row_of_box.append(rows[image_id])
            for column, value in zip(
                columns.values(), (position, category_id, box, area, crowd), strict=True
            ):
                column.append(value)

        for category_id, count in lost.items():
            if count:
                message = f"its annotations are left out, too: {count}"
                self.problems.append(Problem(f"category {category_id}", message))

        row_of_box = np.array(row_of_box, "int64")
        boxes = np.array(columns["bbox"], "float64").reshape(-1, 4)
        sizes = np.array([(i.height, i.width) for i in self.images], "int64").reshape(-1, 2)
        clipped, faults, problem = check_boxes(boxes, sizes[row_of_box])
        if problem is not None:
            self.problems.append(problem)
            clipped[:] = np.nan
            faults = []
        usable = np.isfinite(clipped).all(axis=1)
        for row, fault in faults:
            report(columns["position"][row], fault, kept=bool(usable[row]))

        crowd = np.array(columns["iscrowd"], "int64")
        label = np.array([labels[i] for i in columns["category_id"]], "float32")
        targets = np.flatnonzero(usable & (crowd == 0))
        targets = targets[np.argsort(row_of_box[targets], kind="stable")]
        ends = np.searchsorted(row_of_box[targets], np.arange(len(self.images)), side="right")
        parts = np.split(targets, ends)[:-1]
        for image, part in zip(self.images, parts, strict=True):
            image.boxes, image.labels = clipped[part].astype("float32"), label[part]

        kept = np.flatnonzero(usable).tolist()
        self.positions = places = [columns["position"][row] for row in kept]
        self._columns = {
            "id": id_array([p + 1 if numbered else read_id(records[p]["id"]) for p in places]),
            "image_id": id_array([self.images[row].id for row in row_of_box[kept].tolist()]),
            "category_id": id_array([columns["category_id"][row] for row in kept]),
            "bbox": boxes[kept],
            "area": np.array([columns["area"][row] for row in kept], "float64"),
            "iscrowd": crowd[kept],
        }


def _without_segmentation(record: dict) -> dict:
    """Drops a segmentation, for memory: COCO's take ten times that of everything else.

    An annotation without a box gets the one around its polygons.
    """
    segmentation = record.pop("segmentation", None)
    lacks_box = record.get("bbox") in (None, [], [0, 0, 0, 0])
    if segmentation and lacks_box and (box := box_of_polygons(segmentation)):
        record["bbox"] = box
    return record


def _plain_path(path: Path) -> str:
    """The path of an image file that may not exist here, in one spelling."""
    return os.path.normpath(unicodedata.normalize("NFC", str(path).replace("\\", "/").strip()))


def _read_annotation(record: Any, images: dict, categories: dict) -> tuple[tuple, str | None]:
    """The image id, category id, box, area and crowd flag of a record, or what is wrong with it."""
    if not isinstance(record, dict):
        return (), f"is not an object. Received: {record!r:.80}"
    missing = [key for key in ("image_id", "category_id", "bbox") if key not in record]
    if missing:
        return (), f"lacks {', '.join(map(repr, missing))}"
    image_id = find_id(read_id(record["image_id"]), images)
    category_id = find_id(read_id(record["category_id"]), categories)
    if image_id is None:
        return (), f"there is no image with the id {record['image_id']!r:.80}"
    if category_id is None:
        return (), f"there is no category with the id {record['category_id']!r:.80}"
    box = read_box(record["bbox"])
    if box is None:
        return (), f"its box is not [x, y, width, height]. Received: {record['bbox']!r:.80}"
    crowd = read_flag(record.get("iscrowd"))
    if crowd is None:
        return (), f"its iscrowd {record['iscrowd']!r:.80} is neither 0 nor 1"
    return (image_id, category_id, box, read_area(record.get("area")), crowd), None
