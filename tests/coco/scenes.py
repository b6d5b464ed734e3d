"""Known ground truth and detections, and their figures from pycocotools itself."""

import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from keras_dyhead.coco import METRIC_NAMES
from keras_dyhead.coco.detections import DETECTION, detection_records

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
SIZES = [(60, 90), (200, 120), (64, 64), (33, 47), (150, 300)]  # height, width


def pycocotools_figures(path, results):
    truth = COCO(str(path))
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats, strict=True))


def assert_same_figures(found, expected):
    assert list(found) == NAMES == list(METRIC_NAMES)
    np.testing.assert_allclose(
        [found[name] for name in NAMES], [expected[name] for name in NAMES], rtol=0, atol=1e-9
    )


def shifted_results(scenes):
    """Detections with shifted boxes, wrong classes, misses and false alarms, also in a crowd."""
    random = np.random.default_rng(1)
    results = []
    for record in scenes.annotations:
        for _ in range(random.integers(0, 3)):
            x, y, w, h = record["bbox"]
            dx, dy, dw, dh = random.normal(0, 0.07, 4) * (w, h, w, h)
            height, width = SIZES[record["image_id"] - 1]
            left, top = max(x + dx, 0), max(y + dy, 0)
            right, bottom = min(x + w + dw, width), min(y + h + dh, height)
            category = (
                record["category_id"] if random.uniform() < 0.8 else 10 - record["category_id"]
            )
            results.append(
                {
                    "image_id": record["image_id"],
                    "category_id": category,
                    "bbox": [left, top, right - left, bottom - top],
                    "score": float(np.float32(random.uniform())),
                }
            )
    results.append({"image_id": 4, "category_id": 3, "bbox": [1, 2, 10, 8], "score": 0.5})
    return results


def perfect_results(scenes):
    keys = ("image_id", "category_id", "bbox")
    return [
        {**{key: record[key] for key in keys}, "score": 0.9}
        for record in scenes.annotations
        if not record["iscrowd"]
    ]


def generated_coco(images, classes, detections_per_image):
    """Ground truth with crowds and a class without boxes. Half the detections are near boxes.

    Ids are neither consecutive nor in order, and many scores are equal.
    """
    random = np.random.default_rng(0)
    image_ids = random.permutation(10 * images)[:images] + 1
    category_ids = (random.permutation(3 * classes)[:classes] + 1).tolist()
    share = 1 / np.arange(1, classes) ** 0.7
    share = np.append(share / share.sum(), 0)
    annotations, tables = [], []
    for image_id in image_ids.tolist():
        count = random.integers(0, 15)
        sides = np.exp(random.normal(4, 1, (count, 2))).clip(4, 400)
        corners = random.uniform(0, 1, (count, 2)) * (640 - sides)
        labels = random.choice(classes, count, p=share)
        for corner, side, label in zip(corners, sides, labels, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_ids[label],
                    "bbox": [*corner.tolist(), *side.tolist()],
                    "area": float(side.prod() * 0.7),
                    "iscrowd": int(random.uniform() < 0.02),
                }
            )
        table = np.zeros(detections_per_image, DETECTION)
        table["image_id"] = image_id
        table["category_id"] = random.choice(category_ids, len(table))
        table["score"] = random.uniform(0, 1, len(table)).round(2)
        table["bbox"] = random.uniform(5, 300, (len(table), 4))
        if count:
            near, chosen = np.s_[::2], random.integers(0, count, len(table[::2]))
            shift = random.normal(0, 0.1, (2, len(chosen), 2)) * sides[chosen]
            table["bbox"][near] = np.hstack([corners[chosen] + shift[0], sides[chosen] + shift[1]])
            table["category_id"][near] = np.take(category_ids, labels[chosen])
        tables.append(table)
    ground_truth = {
        "images": [{"id": image_id} for image_id in image_ids.tolist()],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in category_ids],
    }
    return ground_truth, np.concatenate(tables)


def one_cocoeval(ground_truth, detections):
    """Evaluates all categories at once, as pycocotools does."""
    truth, found = COCO(), COCO()
    truth.dataset = json.loads(json.dumps(ground_truth))
    records = enumerate(detection_records(detections), start=1)
    areas = detections["bbox"][:, 2] * detections["bbox"][:, 3]
    annotations = [{**r, "id": i, "area": float(areas[i - 1]), "iscrowd": 0} for i, r in records]
    found.dataset = {**truth.dataset, "annotations": annotations}
    truth.createIndex()
    found.createIndex()
    evaluation = COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(METRIC_NAMES, evaluation.stats.tolist(), strict=True))
