"""A COCO dataset in a temporary folder, built record by record."""

import json

import numpy as np
import pytest
from coco.scenes import SIZES
from PIL import Image


class CocoFolder:
    """Writes image files and collects records; `write` puts them into `instances.json`."""

    def __init__(self, folder):
        self.folder = folder / "images"
        self.folder.mkdir(exist_ok=True)
        self.json = folder / "instances.json"
        self.images, self.annotations = [], []
        self.categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]

    def add_image(self, picture, name=None, **record):
        """Adds an image id and saves an array or a PIL image, or nothing for a (height, width)."""
        image_id = len(self.images) + 1
        name = name or f"{image_id}.png"
        if not isinstance(picture, tuple):
            picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
            picture.save(self.folder / name)
            picture = picture.size[::-1]
        size = {"height": picture[0], "width": picture[1]}
        self.images.append({"id": image_id, "file_name": name, **size, **record})
        return self.images[-1]["id"]

    def add_box(self, image_id, bbox, category_id=3, **record):
        number = len(self.annotations) + 1
        known = {"id": number, "image_id": image_id, "category_id": category_id, "bbox": bbox}
        self.annotations.append({**known, "area": 1.0, "iscrowd": 0, **record})
        return self.annotations[-1]["id"]

    def write(self):
        content = {
            "images": self.images,
            "annotations": self.annotations,
            "categories": self.categories,
        }
        self.json.write_text(json.dumps(content))
        return self.json


@pytest.fixture
def coco(tmp_path):
    return CocoFolder(tmp_path)


@pytest.fixture
def noise():
    """Dark noise of a given size, always the same."""
    return lambda h, w: np.random.default_rng(h * w).integers(0, 60, (h, w, 3)).astype("uint8")


@pytest.fixture
def scenes(coco):
    """Five images of sides 33 to 300, the fourth without boxes, and one crowd region."""
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        image_id = coco.add_image(np.full((height, width, 3), 10 * number, "uint8"))
        for _ in range(0 if number == 3 else 6):
            w, h = random.uniform(0.1, 0.7, 2) * (width, height)
            x, y = random.uniform(0, 1, 2) * (width - w, height - h)
            box = [float(v) for v in (x, y, w, h)]
            coco.add_box(image_id, box, int(random.choice([3, 7])), area=0.6 * w * h)
    coco.annotations[1]["iscrowd"] = 1
    coco.write()
    return coco
