"""Gain of DyHead in detectors of other packages: `python -m benchmarks.compositions`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import runner
from benchmarks.tables import Row, blocks, markdown

IMAGES, HELD_OUT, IMAGE_SIZE = 320, 200, 128
DATA = runner.RUNS / "compositions"
COMPOSITIONS = ("keras-cv-retinanet", "keras-cv-yolov8", "keras-hub-retinanet")

app = runner.command()


@dataclasses.dataclass(frozen=True)
class Trial:
    """A training run of a composition.

    Args:
        composition: One of `COMPOSITIONS`.
        num_blocks: Number of DyHead blocks, 0 for none.
        residual: Whether DyHead's output is added to YOLOV8's pyramid, see `DyHeadYOLOV8Detector`.
        seed: Seed of weights and order.
    """

    composition: str
    num_blocks: int = 0
    residual: bool = True
    seed: int = 0


def train(trial: Trial) -> dict:
    """Trains a composition with AdamW; the rate rises for a tenth of the steps, then falls."""
    import keras

    from keras_dyhead.coco import evaluate_coco, load_coco
    from keras_dyhead.detectors import DetectionPreprocessor

    keras.utils.set_random_seed(trial.seed)
    build, peak, epochs, losses = {
        "keras-cv-retinanet": (
            *(keras_cv_retinanet, 3e-4, 5),
            {"box_loss": "smoothl1", "classification_loss": "focal"},
        ),
        "keras-cv-yolov8": (
            *(keras_cv_yolov8, 3e-3, 25),
            {"box_loss": "ciou", "classification_loss": "binary_crossentropy"},
        ),
        "keras-hub-retinanet": (keras_hub_retinanet, 3e-4, 5, {}),
    }[trial.composition]
    options = {"image_size": (IMAGE_SIZE, IMAGE_SIZE)}
    if trial.composition == "keras-hub-retinanet":  # KerasCV's backbones rescale images
        options["preprocessor"] = DetectionPreprocessor(image_size=options["image_size"])
    data = load_coco(
        *(DATA / "train/images", DATA / "train/instances.json"),
        training=True,
        seed=trial.seed,
        **options,
    )
    held_out = load_coco(DATA / "held_out/images", DATA / "held_out/instances.json", **options)
    steps = epochs * len(data)
    if trial.composition != "keras-hub-retinanet":
        from keras_dyhead.integrations.keras_cv import to_keras_cv

        data = to_keras_cv(data)
    rate = keras.optimizers.schedules.CosineDecay(
        peak / 100, steps - steps // 10, warmup_target=peak, warmup_steps=steps // 10
    )
    model = build(trial)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-4, global_clipnorm=10.0)
    model.compile(optimizer=optimizer, **losses)
    history = model.fit(data, epochs=epochs, shuffle=False, verbose=0).history
    figures = evaluate_coco(model, held_out, workers=1, verbose=0).figures
    return {"figures": figures, "losses": history["loss"]}


def keras_cv_retinanet(trial: Trial):
    """Builds KerasCV's RetinaNet with one convolution in its heads."""
    import keras
    import keras_cv
    import numpy as np

    from keras_dyhead.coco.shapes import SHAPES
    from keras_dyhead.integrations.keras_cv import DyHeadFeaturePyramid
    from keras_dyhead.layers import DyHeadNeck

    backbone = keras_cv.models.ResNetV2Backbone(
        stackwise_filters=[64, 64, 96, 128],
        stackwise_blocks=[2, 2, 2, 2],
        stackwise_strides=[1, 2, 2, 2],
        include_rescaling=True,
        input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
        block_type="basic_block",
    )
    _follow_quickly(backbone)
    head = keras_cv.models.retinanet.PredictionHead
    rare = keras.initializers.Constant(-np.log(99))  # initial class probability: 1 %
    changes = {}
    if trial.num_blocks:
        changes["feature_pyramid"] = DyHeadFeaturePyramid(DyHeadNeck(trial.num_blocks))
    return keras_cv.models.RetinaNet(
        backbone,
        num_classes=len(SHAPES),
        bounding_box_format="xyxy",
        classification_head=head(9 * len(SHAPES), rare, num_conv_layers=1),
        box_head=head(9 * 4, keras.initializers.Zeros(), num_conv_layers=1),
        prediction_decoder=keras_cv.layers.NonMaxSuppression(
            "xyxy", from_logits=True, confidence_threshold=0.01
        ),
        **changes,
    )


def keras_cv_yolov8(trial: Trial):
    """Builds KerasCV's YOLOV8; DyHead does not change its initial weights."""
    import keras_cv

    from keras_dyhead.coco.shapes import SHAPES
    from keras_dyhead.integrations.keras_cv import DyHeadYOLOV8Detector
    from keras_dyhead.layers import DyHeadNeck

    model = keras_cv.models.YOLOV8Detector(
        keras_cv.models.YOLOV8Backbone(
            stackwise_channels=[16, 32, 64, 128],
            stackwise_depth=[1, 1, 1, 1],
            include_rescaling=True,
            input_shape=(IMAGE_SIZE, IMAGE_SIZE, 3),
        ),
        num_classes=len(SHAPES),
        bounding_box_format="xyxy",
        fpn_depth=1,
        prediction_decoder=keras_cv.layers.NonMaxSuppression(
            "xyxy", from_logits=False, iou_threshold=0.7, confidence_threshold=0.01
        ),
    )
    if not trial.num_blocks:
        return model
    neck = DyHeadNeck(trial.num_blocks, channels=64)
    return DyHeadYOLOV8Detector.from_detector(model, neck, residual=trial.residual)


def keras_hub_retinanet(trial: Trial):
    """Builds KerasHub's RetinaNet, corrected, with one convolution in its heads."""
    import keras_hub

    from keras_dyhead.coco.shapes import SHAPES
    from keras_dyhead.integrations.keras_hub import DyHeadBackbone, correct_retinanet
    from keras_dyhead.layers import DyHeadNeck
    from keras_dyhead.training.backbone import small_backbone

    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    encoder = small_backbone(shape)
    _follow_quickly(encoder)
    backbone = keras_hub.models.RetinaNetBackbone(encoder, 3, 7, use_p5=False, image_shape=shape)
    if trial.num_blocks:
        backbone = DyHeadBackbone(backbone, DyHeadNeck(trial.num_blocks))
    return correct_retinanet(
        keras_hub.models.RetinaNetObjectDetector(
            backbone,
            num_classes=len(SHAPES),
            bounding_box_format="xyxy",
            pre_logits_num_conv_layers=1,
            prediction_decoder=keras_hub.layers.NonMaxSuppression(
                "xyxy", from_logits=True, confidence_threshold=0.01
            ),
        )
    )


def _follow_quickly(backbone):
    """Makes batch normalization's moving averages fast enough for 200 steps."""
    import keras

    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def draw() -> None:
    """Draws the shapes of the KerasCV notebook unless they exist."""
    from keras_dyhead.coco.shapes import draw_shapes

    shapes = {
        "image_size": IMAGE_SIZE,
        "size_range": (IMAGE_SIZE / 5, IMAGE_SIZE * 0.6),
        "max_shapes": 5,
        "clutter": 0.25,
    }
    if not (DATA / "complete").exists():
        draw_shapes(DATA / "train", IMAGES, **shapes)
        draw_shapes(DATA / "held_out", HELD_OUT, start=IMAGES, **shapes)
        (DATA / "complete").touch()


def report(found: dict[Trial, dict]) -> str:
    """Returns the results as a table."""
    lines, rows = {}, []
    for trial, line in found.items():
        anyone = dataclasses.replace(trial, seed=0)
        lines.setdefault(anyone, {})[trial.seed] = line["figures"]
    for trial in sorted(lines, key=dataclasses.astuple):
        baseline = lines.get(Trial(trial.composition)) if trial.num_blocks else None
        label = f"{trial.composition}, {blocks(trial.num_blocks)}"
        rows.append(Row(label + ("" if trial.residual else ", in place"), lines[trial], baseline))
    return markdown(rows)


@app.command()
def main(
    only: Annotated[str, typer.Option(help="Detectors to train.")] = ",".join(COMPOSITIONS),
    depths: Annotated[str, typer.Option(help="Numbers of DyHead blocks, 0 for none.")] = "0,1",
    residual: Annotated[
        bool, typer.Option(help="Add DyHead's output to YOLOV8's pyramid, or replace the pyramid.")
    ] = True,
    seeds: runner.Seeds = 3,
    workers: runner.Workers = None,
    only_report: runner.OnlyReport = False,
    results: runner.Results = None,
) -> None:
    """Measure the gain of DyHead in KerasCV's RetinaNet and YOLOV8 and in KerasHub's RetinaNet.

    The settings are those of the KerasCV notebook: small backbones with random weights, 320 drawn
    images of 128 px, 200 steps of 8 images (YOLOV8: 1000), and 200 held-out images.

    Each finished training run adds a line to `benchmarks/compositions.jsonl`. To continue after an
    interruption, repeat the command.

    **Examples**

    python -m benchmarks.compositions

    python -m benchmarks.compositions --only keras-cv-yolov8 --depths 0,1,2,6 --no-residual

    python -m benchmarks.compositions --report
    """
    results = results or Path(__file__).with_suffix(".jsonl")
    if unknown := set(only.split(",")) - set(COMPOSITIONS):
        raise typer.BadParameter(f"Detectors are {', '.join(COMPOSITIONS)}. Received: {unknown}")
    trials = [
        Trial(name, depth, residual or name != "keras-cv-yolov8" or not depth, seed)
        for seed in range(seeds)
        for name in only.split(",")
        for depth in map(int, depths.split(","))
    ]
    failed = []
    if not only_report:
        draw()
        failed = runner.run(trials, results, train, workers, cost=lambda t: 2 + t.num_blocks)
    print(report(runner.read(results, Trial)))
    raise typer.Exit(bool(failed))


if __name__ == "__main__":
    app()
