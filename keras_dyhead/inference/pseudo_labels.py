"""A teacher's detections as a COCO dataset for training."""

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from keras_dyhead.checkpoints.durable import replace_file
from keras_dyhead.coco.annotations import CocoAnnotations
from keras_dyhead.coco.checks import read_coco_json
from keras_dyhead.coco.detections import xywh_boxes
from keras_dyhead.coco.fields import Id, highest_id, read_id, read_name
from keras_dyhead.coco.image_files import SUFFIXES, read_rgb, real_paths
from keras_dyhead.ops.arguments import check, check_choice, fits


class PseudoLabels:
    """Collects detections of unlabeled images and writes them as a COCO JSON file.

    Each image's detections are added to a journal next to the file, `OUT.partial`. After an
    interruption, the same call continues where it stopped. At the end, the JSON file is written
    from the journal in one step, and the journal is deleted.

    Images without a confident detection are left out: an uncertain teacher does not make them
    background. Each annotation also has its `score`.

    Args:
        images: Folder of JPEG or PNG files, including subfolders. Of several links to a file, one
            is used.
        out: The JSON file to write.
        class_names: The teacher's classes in label order.
        score_threshold: Less confident detections are left out. Defaults to `0.5`.
        class_thresholds: Thresholds of individual classes by name. Defaults to none.
        merge: `(annotations, images)` of a labeled dataset, whose images and annotations come
            first in the file. Its categories are matched by name, new ids continue its own, and
            file names are relative to the common parent of both image folders, or absolute if the
            file is elsewhere. Its images are not detected again. Defaults to `None`.
        about: Other settings that determine the labels, such as the teacher's file. They are
            stored under `info`. A journal with other settings is refused. Defaults to `None`.
        fresh: Whether to delete the journal of an interrupted call. Defaults to `False`.
        on_error: `"raise"` or `"skip"`, for unreadable image files, and for unusable images and
            annotations of the labeled dataset, which `"skip"` leaves out. Defaults to `"raise"`.

    Attributes:
        folder: The folder that file names in the JSON file are relative to.
        problems: All problems of the labeled dataset, a list of `Problem`.

    Raises:
        ValueError: If there is no image, a class is unknown, a threshold is not from 0 to 1, the
            labeled dataset lacks a class or cannot be read, or the journal has other settings.

    Example:
    ```python
    labels = PseudoLabels("unlabeled", "pseudo.json", model.class_names, score_threshold=0.6)
    report = labels.run(image_detector(model))
    dataset = load_coco("unlabeled", "pseudo.json", training=True)
    ```
    """

    def __init__(
        self,
        images: str | os.PathLike,
        out: str | os.PathLike,
        class_names: Sequence[str],
        score_threshold: float = 0.5,
        class_thresholds: Mapping[str, float] = MappingProxyType({}),
        merge: tuple[str | os.PathLike, str | os.PathLike] | None = None,
        about: Mapping | None = None,
        fresh: bool = False,
        on_error: str = "raise",
    ):
        check_choice("on_error", on_error, ("raise", "skip"))
        class_names = list(map(read_name, class_names))
        check("score_threshold", score_threshold, _is_threshold(score_threshold), "from 0 to 1")
        valid = isinstance(class_thresholds, Mapping)
        valid = valid and all(map(_is_threshold, class_thresholds.values()))
        expected = "a dictionary from class names to thresholds from 0 to 1"
        check("class_thresholds", class_thresholds, valid, expected)
        if unknown := [name for name in class_thresholds if read_name(name) not in class_names]:
            raise ValueError(f"The model has no classes {sorted(unknown)}. It has: {class_names}")
        class_thresholds = {read_name(name): value for name, value in class_thresholds.items()}
        self.images, self.out, self.on_error = Path(images), Path(out), on_error
        thresholds = [class_thresholds.get(name, score_threshold) for name in class_names]
        self.thresholds = np.array(thresholds)
        self.categories = [{"id": i, "name": name} for i, name in enumerate(class_names, start=1)]
        self._category_ids = {name: i for i, name in enumerate(class_names, start=1)}
        self.labeled: dict[str, list] = {"images": [], "annotations": []}
        self.folder, self.problems = self.images, []
        labeled = []
        if merge is not None:
            labeled = self._open_labeled(Path(merge[0]), Path(merge[1]), class_names)
        files = (p for p in self.images.rglob("*") if p.suffix.lower() in SUFFIXES)
        files = sorted(path.relative_to(self.images).as_posix() for path in files)
        taken = set(labeled)
        self.files = []
        for file, path in zip(files, real_paths(self.images / f for f in files), strict=True):
            if path not in taken:
                self.files.append(file)
                taken.add(path)
        if not self.files:
            raise ValueError(f"{images} has no JPEG or PNG file without labels.")
        self.class_names = class_names
        self._journal = self.out.with_name(self.out.name + ".partial")
        header = {
            "images": str(self.images.resolve()),
            "score_threshold": score_threshold,
            "class_thresholds": class_thresholds,
            **(about or {}),
        }
        self._header = json.loads(json.dumps(header))  # as it will be read from the journal
        if fresh:
            self._journal.unlink(missing_ok=True)
        self._done = self._reopen()

    @property
    def num_done(self) -> int:
        """Number of images that an interrupted call has finished."""
        return len(self._done)

    def run(
        self,
        detect: Callable[[np.ndarray], dict[str, np.ndarray]],
        progress: Callable[[Sequence], Iterator] = iter,
    ) -> dict:
        """Detects objects in the remaining images and writes the JSON file.

        Args:
            detect: Function of one image, see `image_detector`.
            progress: Wraps the list of files during iteration. Defaults to `iter`.

        Returns:
            `{"images": int, "boxes": int, "classes": {name: boxes}, "left_out": images without a
            box, "errors": [{"file", "error"}]}`, counting only pseudo labels.

        Raises:
            ValueError: If `on_error="raise"` and a file cannot be read. The message names it. The
                journal keeps the finished images.
        """
        errors = []
        self.out.parent.mkdir(parents=True, exist_ok=True)
        with open(self._journal, "a", encoding="utf-8") as journal:
            if not journal.tell():
                journal.write(json.dumps(self._header) + "\n")
            for file in progress([file for file in self.files if file not in self._done]):
                try:
                    image = read_rgb(self.images / file)
                except ValueError as error:
                    if self.on_error == "raise":
                        raise
                    errors.append({"file": file, "error": str(error)})
                    continue
                boxes = self._select(detect(image))
                content = {"file": file, "size": image.shape[:2], "boxes": boxes}
                journal.write(json.dumps(content) + "\n")
                journal.flush()
                self._done.add(file)
        report = self._write()
        self._journal.unlink()
        return report | {"errors": errors}

    def _select(self, found: dict[str, np.ndarray]) -> list[list]:
        """Rows of label, x, y, width, height, score of confident detections."""
        boxes = xywh_boxes(found["boxes"].astype("float64").round(2)).round(2)
        labels, scores = found["labels"], found["confidence"].astype("float64")
        kept = (scores >= self.thresholds[labels]) & (boxes[:, 2:].min(axis=1) > 0)
        columns = (values[kept].tolist() for values in (labels, boxes, scores.round(5)))
        return [[label, *box, score] for label, box, score in zip(*columns, strict=True)]

    def _open_labeled(self, annotations: Path, folder: Path, class_names) -> list[str]:
        """Reads the labeled dataset and returns the real paths of its images."""
        opened = CocoAnnotations(annotations, folder, on_error=self.on_error, verify=False)
        content = read_coco_json(annotations)
        self.labeled = {
            "images": _with_ids(content["images"], [image.id for image in opened.images]),
            "annotations": [content["annotations"][place] for place in opened.positions],
        }
        self.problems = opened.problems
        self.categories = _with_ids(content["categories"], opened.category_ids)
        self._category_ids = dict(zip(opened.class_names, opened.category_ids, strict=True))
        if missing := [name for name in class_names if name not in self._category_ids]:
            raise ValueError(
                f"{annotations} lacks classes of the model: {missing}. "
                f"It has: {sorted(self._category_ids)}"
            )
        self.folder = Path(os.path.commonpath([self.images.resolve(), folder.resolve()]))
        paths = [image.path for image in opened.images]
        for record, path in zip(self.labeled["images"], paths, strict=True):
            record["file_name"] = self._name(folder, path)
        return real_paths(paths)

    def _name(self, folder: Path, path: Path) -> str:
        """The name of an image file in the JSON file: absolute if it is not in `self.folder`."""
        file = path.relative_to(folder) if path.is_relative_to(folder) else path
        outside = file.is_absolute() or ".." in file.parts
        path = path.resolve() if outside else folder.resolve() / file
        base = self.folder.resolve()
        return (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()

    def _reopen(self) -> set[str]:
        """Returns the files in the journal, and removes an unfinished last line."""
        if not self._journal.exists():
            return set()
        with open(self._journal, "rb") as journal:
            lines = [line for line in journal if line.endswith(b"\n")]
        os.truncate(self._journal, sum(map(len, lines)))
        if not lines:
            return set()
        header = json.loads(lines[0])
        if header != self._header:
            changed = [
                f"{name}={header.get(name)!r} (now {self._header.get(name)!r})"
                for name in sorted(header.keys() | self._header.keys())
                if header.get(name) != self._header.get(name)
            ]
            raise ValueError(
                f"{self._journal} was started with {', '.join(changed)}: use these, or delete it."
            )
        # A file may have been deleted since, or labeled.
        return {json.loads(line)["file"] for line in lines[1:]}.intersection(self.files)

    def _write(self) -> dict:
        """Writes the JSON file and returns its counts."""
        counts = dict.fromkeys(self.class_names, 0)
        images, annotations = [], []
        image_ids, ids = _new_ids(self.labeled["images"]), _new_ids(self.labeled["annotations"])
        with open(self._journal, encoding="utf-8") as journal:
            next(journal)  # the header
            done = [c for c in map(json.loads, journal) if c["boxes"] and c["file"] in self._done]
        for image_id, content in zip(image_ids, done, strict=False):
            name = self._name(self.images, self.images / content["file"])
            height, width = content["size"]
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
            for label, *box, score in content["boxes"]:
                counts[self.class_names[label]] += 1
                annotations.append(
                    {
                        "id": next(ids),
                        "image_id": image_id,
                        "category_id": self._category_ids[self.class_names[label]],
                        "bbox": box,
                        "area": round(box[2] * box[3], 2),
                        "iscrowd": 0,
                        "score": score,
                    }
                )
        content = {
            "info": {"pseudo_labels": self._header},
            "categories": self.categories,
            "images": self.labeled["images"] + images,
            "annotations": self.labeled["annotations"] + annotations,
        }
        replace_file(self.out, json.dumps(content))
        return {
            "images": len(images),
            "boxes": len(annotations),
            "classes": counts,
            "left_out": len(self._done) - len(images),
        }


def _with_ids(records: Sequence, ids: Iterable[Id]) -> list[dict]:
    """The first record of each of these ids."""
    first = {}
    for record in records:
        if isinstance(record, dict):
            first.setdefault(read_id(record.get("id")), record)
    return [first[i] for i in ids]


def _new_ids(records: Sequence[Mapping]) -> Iterator[Id]:
    """Yields ids after those of records, as text if one of them is: pycocotools sorts them all."""
    ids = [read_id(record.get("id")) for record in records]
    kind = str if any(isinstance(i, str) for i in ids) else int
    return map(kind, itertools.count(1 + highest_id(ids)))


def _is_threshold(value) -> bool:
    return fits(value, float) and 0 <= value <= 1
