"""Gain of DyHead in a few minutes on a GPU: `python -m benchmarks.short_training`."""

import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks import runner
from benchmarks.measurement import gpu_environment, gpu_name
from benchmarks.memory import PeakMemory
from benchmarks.runner import remember
from benchmarks.tables import blocks as in_words

DATA = runner.RUNS / "short_training"
EPOCH = 10
"""Steps between two readings of the clock."""

_DRAWN_AT_A_TIME = 25

app = runner.command()


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training run.

    Args:
        num_blocks: Number of DyHead blocks, 0 for none.
        backend: Keras backend.
        dtype: `"float32"`, or `"bfloat16"` for mixed precision.
        device: `"CPU"` or the name of the GPU.
        backbone: One of `keras_dyhead.backbones.BACKBONES`, with random weights.
        channels: Channels of pyramid, DyHead and head.
        image_size: Height and width of the images in pixels.
        batch_size: Images per step.
        images: Number of drawn training images.
        held_out: Number of drawn evaluation images.
        minutes: Time for all runs together, without the first step of each.
        learning_rate: Rate of AdamW, constant after 50 warm-up steps. The moving average of the
            weights is evaluated.
    """

    num_blocks: int = 6
    backend: str = "jax"
    dtype: str = "bfloat16"
    device: str = "CPU"
    backbone: str = "resnet50"
    channels: int = 256
    image_size: int = 512
    batch_size: int = 16
    images: int = 2000
    held_out: int = 300
    minutes: float = 5.0
    learning_rate: float = 3e-4


def train(trial: Trial, files: list[Path], seconds: float, epochs: int) -> dict:
    """Trains ATSS until the time is up and evaluates it.

    Args:
        trial: What to train.
        files: As `files_of` returns them.
        seconds: Maximum time.
        epochs: Maximum number of epochs of `EPOCH` steps, 0 for no limit.
    """
    import keras

    from keras_dyhead.coco import SHAPES, coco_metrics
    from keras_dyhead.detectors.preprocessor import IMAGENET_MEAN, IMAGENET_STD

    class Batches(keras.utils.PyDataset):
        """An epoch of drawn images; training flips every second one."""

        def __init__(self, arrays, training):
            super().__init__(workers=4, max_queue_size=8)
            self.arrays, self.training, self.epoch = arrays, training, 0

        def __len__(self):
            return EPOCH if self.training else -(-len(self.arrays["images"]) // trial.batch_size)

        def __getitem__(self, index):
            start, size = index * trial.batch_size, trial.batch_size
            count = len(self.arrays["images"])
            if self.training:
                rows = np.random.default_rng([self.epoch, index]).integers(count, size=size)
            else:
                rows = np.minimum(np.arange(start, start + size), count - 1)  # one shape for all
            images, boxes = self.arrays["images"][rows], self.arrays["boxes"][rows]
            if self.training:
                images[::2], boxes[::2] = _flipped(images[::2], boxes[::2])
            images = (images - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
            return images, {"boxes": boxes, "labels": self.arrays["labels"][rows]}

        def on_epoch_end(self):
            self.epoch += 1

    class Clock(keras.callbacks.Callback):
        """Reads the clock after every epoch; the first epoch compiles and does not count."""

        def on_epoch_end(self, epoch, logs=None):
            times.append(time.monotonic())
            self.model.stop_training = times[-1] - times[0] > seconds

    keras.utils.set_random_seed(0)
    if trial.dtype != "float32":
        keras.config.set_dtype_policy(f"mixed_{trial.dtype}")
    drawn, held_out = (np.load(path) for path in files)
    drawn, held_out = ({name: file[name] for name in file} for file in (drawn, held_out))
    model, times = build(trial, len(SHAPES)), []
    memory = PeakMemory("" if trial.device == "CPU" else trial.backend)
    history = model.fit(
        Batches(drawn, training=True),
        epochs=epochs or sys.maxsize,
        callbacks=[Clock()],
        shuffle=False,
        verbose=0,
    ).history
    peak = memory.mib()
    found = model.predict(Batches(held_out, training=False), verbose=0)
    truth, results = _coco(held_out, len(SHAPES)), _results(found, len(held_out["images"]))
    spent = [end - start for start, end in zip(times, times[1:], strict=False)]
    return {
        "figures": coco_metrics(truth, results, workers=1).figures,
        "epochs": len(times),
        "steps": EPOCH * len(times),
        "seconds": sum(spent),
        "images_per_second": EPOCH * trial.batch_size / statistics.median(spent or [math.nan]),
        "peak_mib": peak,
        "losses": history["loss"],
        "version": f"Keras {keras.__version__} on {trial.backend}",
    }


def build(trial: Trial, num_classes: int):
    """Builds and compiles the detector."""
    import keras

    from keras_dyhead.backbones import BACKBONES
    from keras_dyhead.detectors import ATSS
    from keras_dyhead.layers import DyHeadNeck, FeaturePyramid

    shape = (trial.image_size, trial.image_size, 3)
    backbone, arguments = BACKBONES[trial.backbone]
    model = ATSS(
        backbone(**{"batch_norm": "train"} | arguments, image_shape=shape),
        num_classes,
        neck=DyHeadNeck(trial.num_blocks, trial.channels) if trial.num_blocks else None,
        pyramid=FeaturePyramid(trial.channels),
        image_shape=shape,
    )
    rate = keras.optimizers.schedules.PolynomialDecay(0.0, 50, trial.learning_rate)
    model.compile(
        keras.optimizers.AdamW(
            rate, weight_decay=1e-4, global_clipnorm=10.0, use_ema=True, ema_momentum=0.98
        )
    )
    return model


def _flipped(images, boxes):
    left, top, right, bottom = np.moveaxis(boxes, -1, 0)
    width = np.float32(images.shape[2])
    return images[:, :, ::-1].copy(), np.stack([width - right, top, width - left, bottom], axis=-1)


def _coco(arrays, num_classes) -> dict[str, list[dict]]:
    """Returns the ground truth as COCO annotations."""
    boxes = [
        {"image_id": image, "category_id": int(label), "iscrowd": 0, **_box(box)}
        for image, (boxes, labels) in enumerate(zip(arrays["boxes"], arrays["labels"], strict=True))
        for box, label in zip(boxes, labels, strict=True)
        if label >= 0
    ]
    return {
        "images": [{"id": image} for image in range(len(arrays["images"]))],
        "annotations": [{"id": number} | box for number, box in enumerate(boxes, start=1)],
        "categories": [{"id": label, "name": str(label)} for label in range(num_classes)],
    }


def _results(found, num_images) -> list[dict]:
    """Returns predictions as COCO results."""
    return [
        {
            "image_id": image,
            "category_id": int(found["labels"][image][place]),
            "bbox": _box(found["boxes"][image][place])["bbox"],
            "score": float(found["confidence"][image][place]),
        }
        for image in range(num_images)
        for place in range(int(found["num_detections"][image]))
    ]


def _box(corners) -> dict:
    left, top, right, bottom = map(float, corners)
    width, height = right - left, bottom - top
    return {"bbox": [left, top, width, height], "area": width * height}


def files_of(trial: Trial) -> list[Path]:
    """Returns the files with the training and evaluation images."""
    counts = {"train": trial.images, "held_out": trial.held_out}
    return [DATA / f"{name}-{count}-{trial.image_size}px.npz" for name, count in counts.items()]


def draw(trial: Trial) -> None:
    """Draws the hard shapes of the study on all cores unless they exist."""
    spawn = multiprocessing.get_context("spawn")
    for path, start, count in zip(
        files_of(trial), (0, trial.images), (trial.images, trial.held_out), strict=True
    ):
        if path.exists():
            continue
        ends = range(start, start + count, _DRAWN_AT_A_TIME)
        parts = [(s, min(_DRAWN_AT_A_TIME, start + count - s), trial.image_size) for s in ends]
        with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), spawn) as pool:
            drawn = list(pool.map(_draw_part, parts))
        arrays = {name: np.concatenate([part[name] for part in drawn]) for name in drawn[0]}
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(unfinished := path.with_suffix(".unfinished.npz"), **arrays)
        unfinished.rename(path)


def _draw_part(part) -> dict[str, np.ndarray]:
    """Draws some images; returns them, boxes (xyxy) and labels, padded with label -1."""
    from PIL import Image

    from benchmarks.study.images import hard_shapes
    from keras_dyhead.coco import draw_shapes

    start, count, size = part
    shapes = hard_shapes(size)
    boxes = np.zeros((count, shapes["max_shapes"], 4), "float32")
    labels = np.full(boxes.shape[:2], -1, "int32")
    with tempfile.TemporaryDirectory() as folder:
        path = draw_shapes(folder, count, start=start, **shapes)
        contents = json.loads(path.read_text())
        names = [record["file_name"] for record in contents["images"]]
        images = [np.asarray(Image.open(Path(folder, "images", name))) for name in names]
    for record in contents["annotations"]:
        row = record["image_id"] - start
        place = np.argmax(labels[row] < 0)
        left, top, width, height = record["bbox"]
        boxes[row, place] = left, top, left + width, top + height
        labels[row, place] = record["category_id"] - 1
    return {"images": np.stack(images), "boxes": boxes, "labels": labels}


def run(trials: list[Trial], results: Path | None, progress=print) -> list[dict]:
    """Trains each in a separate process, for the same number of steps.

    The first run, with the most blocks, determines how many steps fit into its time.
    """
    spawn, found = multiprocessing.get_context("spawn"), []
    for trial in trials:

        def measure(trial=trial):
            with concurrent.futures.ProcessPoolExecutor(1, spawn, _start, (trial,)) as pool:
                epochs = found[0]["epochs"] if found else 0
                seconds = math.inf if found else 60 * trial.minutes / len(trials)
                return pool.submit(train, trial, files_of(trial), seconds, epochs).result()

        progress(f"training with {in_words(trial.num_blocks)}")
        found.append(remember(results, trial, measure))
    return found


def _start(trial):
    os.environ["KERAS_BACKEND"] = trial.backend
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if trial.device == "CPU":
        os.environ["CUDA_VISIBLE_DEVICES"], os.environ["JAX_PLATFORMS"] = "", "cpu"
    else:
        os.environ.update(gpu_environment())


def markdown(lines: list[dict]) -> str:
    """Returns the runs as a table."""
    one = lines[0]
    text = [
        f"ATSS, {one['backbone']}, {one['channels']} channels, {one['image_size']}x"
        f"{one['image_size']}, batch {one['batch_size']}, {one['dtype']}, {one['device']}, "
        f"{one['version']}. Hard shapes, {one['images']} images; AP on {one['held_out']} others.",
        "",
        "| | steps | AP | AP50 | images/s | peak memory |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for line in sorted(lines, key=lambda line: line["num_blocks"]):
        figures = line["figures"]
        text.append(
            f"| {in_words(line['num_blocks'])} | {line['steps']} | {100 * figures['AP']:.1f} | "
            f"{100 * figures['AP50']:.1f} | {line['images_per_second']:.1f} | "
            f"{line['peak_mib']:.0f} MiB |"
        )
    return "\n".join(text) + "\n"


@app.command()
def main(
    depths: Annotated[str, typer.Option(help="Numbers of DyHead blocks, 0 for none.")] = "0,6",
    gpu: Annotated[bool, typer.Option("--gpu", help="Train on the GPU.")] = False,
    backend: Annotated[str, typer.Option(help="Keras backend.")] = Trial.backend,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = Trial.dtype,
    minutes: Annotated[float, typer.Option(help="Time for all runs together.")] = Trial.minutes,
    backbone: Annotated[str, typer.Option(help="With random weights.")] = Trial.backbone,
    channels: Annotated[int, typer.Option(help="A multiple of 16.")] = Trial.channels,
    image_size: Annotated[int, typer.Option(help="In pixels.")] = Trial.image_size,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = Trial.batch_size,
    images: Annotated[int, typer.Option(help="Training images.")] = Trial.images,
    held_out: Annotated[int, typer.Option(help="Evaluation images.")] = Trial.held_out,
    out: Annotated[
        Path | None, typer.Option(help="Write OUT.jsonl after each run, and OUT.md.")
    ] = None,
) -> None:
    """Train ATSS with and without DyHead for the same number of steps in a few minutes.

    To continue after an interruption, repeat the command.

    **Examples**

    python -m benchmarks.short_training --gpu --out benchmarks/short_training

    python -m benchmarks.short_training --depths 0,1 --backbone resnet18 --channels 16
    --image-size 64 --images 32 --held-out 8 --batch-size 4 --minutes 0.2
    """
    try:
        device = gpu_name() if gpu else "CPU"
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    options = {
        "backend": backend,
        "dtype": dtype,
        "device": device,
        "backbone": backbone,
        "channels": channels,
        "image_size": image_size,
        "batch_size": batch_size,
        "images": images,
        "held_out": held_out,
        "minutes": minutes,
    }
    counts = sorted(map(int, depths.split(",")), reverse=True)
    trials = [Trial(count, **options) for count in counts]
    draw(trials[0])
    lines = run(trials, out and out.with_suffix(".jsonl"))
    print(markdown(lines))
    if out is not None:
        out.with_suffix(".md").write_text(markdown(lines), encoding="utf-8")


if __name__ == "__main__":
    app()
