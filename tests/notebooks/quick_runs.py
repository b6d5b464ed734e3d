"""Small parameters of each notebook for tests, and what it must show with any parameters."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "notebooks"


@dataclasses.dataclass(frozen=True)
class QuickRun:
    """The quick run of one notebook.

    Args:
        parameters: Values that replace those of the cell tagged `parameters`.
        pictures: Number of PNG outputs, in the quick run and in the committed file.
        prints: Regular expressions that match the printed text in this order, in the quick run and
            in the committed file.
    """

    parameters: Mapping[str, Any]
    pictures: int
    prints: tuple[str, ...] = ()


QUICK_RUNS = {
    "01_quickstart": QuickRun(
        parameters={
            "NUM_TRAIN": 4,
            "NUM_VAL": 8,
            "IMAGE_SIZE": 64,
            "BATCH_SIZE": 2,
            "EPOCHS": 1,
            "CHANNELS": 16,
            "SCORE_THRESHOLD": 0.0,
        },
        pictures=4,
        prints=(
            r"DyHeadNeck +[\d,]+ parameters",
            r"val_AP50: ",
            r"AP50  (0\.\d{3}|-1\.000)",
            r"'same': True, 'images': 2, 'detections': \d+",
        ),
    ),
    "02_kerascv": QuickRun(
        parameters={
            "IMAGE_SIZE": 64,
            "TRAIN_IMAGES": 2,
            "TEST_IMAGES": 2,
            "BATCH_SIZE": 2,
            "EPOCHS": 1,
            "YOLO_EPOCHS": 1,
            "RETINANET_CHANNELS": 16,
            "YOLO_CHANNELS": 16,
        },
        pictures=3,
        prints=(
            r"raw outputs before training: 0\n",
            r"RetinaNet: loss \d",
            r"RetinaNet \+ DyHead: loss \d",
            r"YOLOV8: loss \d",
            r"YOLOV8 \+ DyHead: loss \d",
            r"RetinaNet +[\d,]+ +\d+\.\d",
            r"RetinaNet: with DyHead [+-]\d+\.\d points of AP",
            r"YOLOV8: with DyHead [+-]\d+\.\d points of AP",
            r"gives \d+ detections in \d+ images",
        ),
    ),
    "03_published_weights": QuickRun(
        parameters={
            "NUM_IMAGES": 2,
            "TRAIN_IMAGES": 8,
            "EPOCHS": 1,
            "MIN_SIDE": 100,
            "MAX_SIDE": 128,
        },
        pictures=2,
        prints=(
            r"dyhead_r50_atss_fpn_1x +microsoft .* AP 42\.4",
            r"generated stand-in: \d{3} tensors",
            r"ATSS, 6 blocks, alignment 'published'",
            r"-> batch \(1, \d+, \d+, 3\)",
            r"raw outputs before and after the file differ by at most 0\.0e\+00",
            r"the small detector, \d+ images, \d+ detections",
            r"AP -?\d\.\d{3}, AP50",
            r"(P\d: published alignment 0\.0e\+00, paper's alignment \d\.\d\d\n){5}",
            r"the backbone's weights are the file's: True",
        ),
    ),
    "04_multi_gpu": QuickRun(
        parameters={
            "NUM_IMAGES": 8,
            "IMAGE_SIZE": 64,
            "BATCH_SIZE": 4,
            "STEPS": 3,
            "CHANNELS": 16,
        },
        pictures=1,
        prints=(
            r"\n2 replicas",
            r"\n2 devices: .*\n  off by at most (\de-0[6-9]|0e\+00) in the first ten steps",
            r" 8 devices: batch of 16, learning rate 0\.01000",
            r"the same after loading on one device: True",
            r"TF_CONFIG=.*1\}\}",
        ),
    ),
    "05_inside_dyhead": QuickRun(
        parameters={
            "IMAGE_SIZE": 64,
            "CHANNELS": 16,
            "TRAIN_IMAGES": 2,
            "TEST_IMAGES": 12,
            "BATCH_SIZE": 2,
            "EPOCHS": 1,
        },
        pictures=6,
        prints=(
            r"L x S x C = \(3, \d+, \d+\)",
            r"P5 masks: largest difference \d",
            r"P3 high: largest difference \d",
            r"P5 after scale-aware attention: largest difference \d",
            r"P5 after task-aware attention: largest difference \d",
            r"P5 of the block: largest difference \d",
            r"P4 high, published: largest difference \d",
            r"alignment of the paper: off by 0\.00",
            r"published alignment: off by 0\.5\d",
        ),
    ),
}
"""By the names of the notebooks, without suffix."""
