"""`keras-dyhead demo` and `keras-dyhead train`."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from keras_dyhead.cli.console import Terminal, app, print_error, quiet_tensorflow
from keras_dyhead.cli.options import (
    Annotations,
    ImageSize,
    OnError,
    Overrides,
    Recipe,
    existing_file,
    existing_folder,
    fetch_published,
    given_options,
    input_errors,
    training_settings,
)
from keras_dyhead.cli.summary import describe, report

if TYPE_CHECKING:  # TensorFlow takes seconds to import: only the commands themselves do
    from keras_dyhead.training import Training

Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on after the last finished epoch of the training in --out."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete an earlier training in --out first.")
]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Detector = Annotated[
    str,
    typer.Option(metavar="atss|faster-rcnn|fcos|reppoints|retinanet", help="The detector."),
]
NoDyHead = Annotated[
    bool, typer.Option("--no-dyhead", help="Leave DyHead out: the baseline to compare with.")
]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the drawings and the results.")] = Path(
        "runs/demo"
    ),
    images: Annotated[int, typer.Option(min=2, help="Images to draw; half are held out.")] = 1600,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training half.")] = 5,
    detector: Detector = "atss",
    no_dyhead: NoDyHead = False,
    seed: Seed = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train, evaluate and export a small detector on drawn shapes, in minutes on two cores.

    Draws a COCO-format data set of circles, squares, triangles, stars and crosses, trains an
    ATSS detector with DyHead on one half, evaluates it on the other with pycocotools, and exports
    a SavedModel, which a fresh Python process without Keras then runs on image files.

    **Examples**

    keras-dyhead demo

    keras-dyhead demo --out runs/longer --epochs 12 --seed 1

    keras-dyhead demo --out runs/baseline --detector retinanet --no-dyhead
    """

    def build(training):
        model = {"detector": detector} | ({"num_blocks": 0} if no_dyhead else {})
        return training.demo_training(out, images, epochs, seed, resume, overwrite, **model)

    _run(build, out)


@app.command()
def train(
    context: typer.Context,
    images: Annotated[Path, existing_folder("Folder of the training images.")],
    annotations: Annotations,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and results.", show_default=False)
    ] = None,
    recipe: Recipe = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print all settings and what follows from them, and stop."
        ),
    ] = False,
    val_images: Annotated[
        Path | None, existing_folder("Folder of the images to evaluate on.")
    ] = None,
    val_annotations: Annotated[
        Path | None,
        existing_file("Their COCO JSON file."),
    ] = None,
    val_split: Annotated[
        float,
        typer.Option(
            help="Part of the training images to hold out and evaluate on, where there are no "
            "--val-images. With 0 the training images are evaluated."
        ),
    ] = 0.0,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Passes over the images; by default 12, or 600 steps if more."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images per step, on all devices together.")
    ] = 4,
    image_size: ImageSize = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Fine-tune: go on from a .keras file, or from a published model by the name that "
            "`convert list` shows, which is fetched once. All is kept but what belongs to the "
            "classes.",
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="backbone|pyramid|neck|head",
            help="A part that does not train; may be given several times.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="small (the default), resnet18, resnet50, resnet101, resnext101_64x4d, "
            "resnext101_64x4d_dcn or swin_tiny with random weights, or a KerasHub "
            "preset such as resnet_50_imagenet, which is downloaded, or a preset's folder."
        ),
    ] = None,
    backbone_weights: Annotated[
        Path | None,
        existing_file("PyTorch checkpoint (.pth, .safetensors) for the backbone."),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            metavar="atss|faster-rcnn|fcos|reppoints|retinanet",
            help="The detector, or a published model by the name that `convert list` shows.",
        ),
    ] = "atss",
    num_blocks: Annotated[
        int | None, typer.Option(min=0, help="DyHead blocks, by default 2; 0 leaves DyHead out.")
    ] = None,
    no_dyhead: NoDyHead = False,
    channels: Annotated[
        int | None,
        typer.Option(help="Channels of pyramid and DyHead, a multiple of 16; by default 64."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak learning rate; by default 0.001, with --weights 0.0001."),
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs between evaluations; by default a fifth of all."),
    ] = None,
    keep: Annotated[
        Literal["best", "last"],
        typer.Option(help="The epoch that becomes the model: by AP on images not trained on."),
    ] = "best",
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="End after so many evaluations without a better AP."),
    ] = None,
    jit_compile: Annotated[
        bool, typer.Option("--jit-compile", help="Compile with XLA; the first step takes minutes.")
    ] = False,
    on_error: OnError = "raise",
    strategy: Annotated[
        str,
        typer.Option(
            metavar="none|mirrored|multiworker",
            help="One device, all GPUs of this machine, or those of all machines in TF_CONFIG.",
        ),
    ] = "none",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Equal weights from equal settings; slower.")
    ] = False,
    seed: Seed = 0,
    save_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between checkpoints within an epoch; by default none."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a detector with DyHead on your images; evaluate and export it.

    Saves a checkpoint after every epoch: after an interruption, the same command with --resume
    goes on from there. At the end, --out holds the model (model.keras), a SavedModel that takes
    images or image files (saved_model/), the COCO figures (metrics.json), the course of the
    training (history.json, .csv, .png) and pictures (detections.png). From the beginning it holds
    settings.json: all settings, what follows from them, and the versions of the packages; from the
    first evaluation on, figures, AP of every class and pictures for TensorBoard (tensorboard/).

    **Examples**

    keras-dyhead train --images photos --annotations photos.json --out runs/photos

    keras-dyhead train --weights atss_r50_fpn_dyhead_1x_coco --freeze backbone
    --images photos --annotations photos.json --val-split 0.1 --out runs/mine

    keras-dyhead train --images train --annotations train.json --val-images val
    --val-annotations val.json --out runs/big --backbone resnet_50_imagenet --num-blocks 6
    --channels 256 --learning-rate 1e-4 --epochs 12

    keras-dyhead train --images photos --annotations photos.json --out runs/photos --resume

    keras-dyhead train --recipe dyhead_r50_atss_fpn_1x --images train2017
    --annotations instances_train2017.json --backbone-weights resnet50_msra-5891d200.pth
    --out runs/atss --batch-size 4 dtype=mixed_bfloat16 augmentation.horizontal_flip=0
    """
    if out is None and not print_config:
        raise typer.BadParameter("A training needs a folder for its results.", param_hint="--out")

    def settings(training):
        fields = {field.name for field in dataclasses.fields(training.TrainingSettings)}
        given = given_options(context, fields & context.params.keys())
        if no_dyhead:
            given["num_blocks"] = 0
        return training_settings(recipe, overrides, given)

    if print_config:
        _print_config(settings)
    else:
        if weights is not None:
            with input_errors():
                fetch_published(weights, Terminal())
        flags = {"resume": resume, "overwrite": overwrite, "save_every": save_every}
        _run(lambda training: training.Training(settings(training), out, **flags), out)


def _print_config(settings: Callable) -> None:
    """Prints what a training would be made of, as JSON."""
    with quiet_tensorflow(), input_errors():
        from keras_dyhead import training

        config = training.planned_config(settings(training))
    print(json.dumps(config, indent=1))


def _run(build: Callable[..., "Training"], out: Path) -> None:
    """Builds a training, runs it and reports; input errors are one message and exit code 2."""
    terminal = Terminal()
    reading = terminal.status("starting TensorFlow and reading the data")
    with reading, quiet_tensorflow(), input_errors(), warnings.catch_warnings():
        from keras_dyhead import training

        warnings.simplefilter("ignore", UserWarning)  # problems are listed below
        planned = build(training)
    describe(planned, terminal)
    try:
        metrics = planned.run(verbose=1 if terminal.is_terminal else 2)
    except KeyboardInterrupt:
        terminal.print("\nInterrupted. The same command with --resume goes on from here.")
        raise typer.Exit(130) from None
    except (FloatingPointError, OSError) as error:
        print_error(error)
        raise typer.Exit(1) from None
    if metrics is None:  # of several processes, the chief reports
        return
    report(metrics, out, terminal)
    if metrics["serving_check"] is not None and not metrics["serving_check"]["same"]:
        raise typer.Exit(1)
