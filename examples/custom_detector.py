"""Builds your own detector around DyHeadNeck, with its own backbone, heads, targets and loss.

    python examples/custom_detector.py --images photos --annotations photos.json --out mine

On every level, the cell that contains the center of an object predicts its class and box.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from keras_dyhead.coco import CocoEvaluation, load_coco
from keras_dyhead.detectors import DetectionDecoder
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid

STRIDES = (8, 16, 32)


class MiddleDetector(keras.Model):
    """A `keras.Model` with DyHead: one layer between feature pyramid and heads."""

    def __init__(self, num_classes, side, channels=32, num_blocks=1):
        super().__init__()
        conv = layers.Conv2D
        self.stages = [conv(channels, 5, s, "same", activation="relu") for s in (4, 2, 2, 2)]
        self.pyramid = FeaturePyramid(channels, max_level=5)
        self.neck = DyHeadNeck(num_blocks, channels)
        self.class_head = conv(num_classes, 1, bias_initializer=keras.initializers.Constant(-4))
        self.box_head = conv(4, 1)
        self.decode = DetectionDecoder()
        grids = [np.mgrid[:side:s, :side:s][::-1].reshape(2, -1).T + s / 2 for s in STRIDES]
        self.counts = [len(grid) for grid in grids]
        self.middles = np.concatenate(grids).astype("float32")  # (cells, 2): x, y in pixels
        self.strides = np.repeat(STRIDES, self.counts).astype("float32")[:, None]

    def call(self, images):
        maps = [images / 255]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        logits, deltas = [], []
        for count, x in zip(self.counts, self.neck(self.pyramid(maps[2:])), strict=True):
            logits.append(ops.reshape(self.class_head(x), (-1, count, self.class_head.filters)))
            deltas.append(ops.reshape(self.box_head(x), (-1, count, 4)))
        boxes = np.tile(self.middles, 2) + self.strides * ops.concatenate(deltas, axis=1)
        return {"logits": ops.concatenate(logits, axis=1), "boxes": boxes}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        boxes, labels = y["boxes"][:, None], ops.cast(y["labels"], "int32")[:, None]  # -1: padding
        away = ops.abs(self.middles[:, None] - (boxes[..., :2] + boxes[..., 2:]) / 2)
        hits = ops.all(away <= self.strides[:, None] / 2, axis=-1) & (labels >= 0)
        hits = ops.cast(hits, "float32")[..., None]  # (images, cells, objects, 1)
        logits, error = y_pred["logits"], ops.abs(boxes - y_pred["boxes"][:, :, None])
        classes = ops.max(hits * ops.one_hot(labels, logits.shape[-1]), axis=2)
        surprise = ops.binary_crossentropy(classes, logits, from_logits=True)
        loss = ops.sum(ops.square(classes - ops.sigmoid(logits)) * surprise)  # a focal loss
        return (loss + ops.sum(hits * error / self.strides[:, None])) / (ops.sum(hits) + 1)

    def predict_step(self, data):
        raw = super().predict_step(data)
        return self.decode(raw["logits"], raw["boxes"], self.counts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--images", "--annotations", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--side", type=int, default=128, help="side of the square input images")
    parser.add_argument("--epochs", type=int, default=50)
    args = parser.parse_args()
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    data = args.images, args.annotations, 8, (args.side, args.side)
    train, val = load_coco(*data, training=True), load_coco(*data)
    model = MiddleDetector(len(train.class_names), args.side)
    model.compile(keras.optimizers.AdamW(2e-3, global_clipnorm=10.0))
    evaluation = CocoEvaluation(val, eval_freq=args.epochs)
    model.fit(train, epochs=args.epochs, callbacks=[evaluation], verbose=2)
    model.save_weights(f"{args.out}.weights.h5")
