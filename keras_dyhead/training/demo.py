"""The demo: draws a dataset of shapes and trains a detector on it."""

from pathlib import Path

from keras_dyhead.coco.shapes import draw_shapes
from keras_dyhead.ops.arguments import check
from keras_dyhead.training.run import Training, check_folder
from keras_dyhead.training.settings import TrainingSettings


def demo_training(
    out: str | Path,
    num_images: int = 1600,
    epochs: int = 5,
    seed: int = 0,
    resume: bool = False,
    overwrite: bool = False,
    detector: str = "atss",
    num_blocks: int = 1,
) -> Training:
    """Draws the demo dataset into `out/shapes` and sets up its training.

    One half of the images is for training, the other is held out for evaluation.
    """
    check("num_images", num_images, num_images >= 2, "at least 2")
    data = Path(out) / "shapes"
    settings = TrainingSettings(
        images=data / "train" / "images",
        annotations=data / "train" / "instances.json",
        val_images=data / "held_out" / "images",
        val_annotations=data / "held_out" / "instances.json",
        epochs=epochs,
        batch_size=8,
        image_size=256,
        detector=detector,
        num_blocks=num_blocks,
        max_level=6,
        anchor_octaves=2,
        anchor_ratios=(1.0,),
        eval_every=max(1, epochs // 2),
        seed=seed,
    )
    check_folder(Path(out), settings, resume, overwrite)
    half = num_images // 2
    draw_shapes(data / "train", num_images - half, seed=seed)
    draw_shapes(data / "held_out", half, seed=seed, start=num_images - half)
    return Training(settings, out, resume, overwrite)
