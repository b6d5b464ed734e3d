"""`keras-dyhead demo` and `keras-dyhead train`."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from keras_dyhead.cli import options
from keras_dyhead.cli.console import Terminal, app, print_error, quiet_tensorflow
from keras_dyhead.cli.summary import describe, report

if TYPE_CHECKING:  # TensorFlow takes seconds to import, so only the commands import it
    from keras_dyhead.training import Training

Resume = Annotated[
    bool, typer.Option("--resume", help="Resume the run in --out from its last checkpoint.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete an earlier run in --out first.")
]
Seed = Annotated[int, typer.Option(help="Seed for all random choices.")]
Detector = Annotated[
    str,
    typer.Option(metavar="atss|faster-rcnn|fcos|reppoints|retinanet", help="Detector to train."),
]
NoDyHead = Annotated[bool, typer.Option("--no-dyhead", help="Train without DyHead, as a baseline.")]


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the drawn images and the results.")] = Path(
        "runs/demo"
    ),
    images: Annotated[
        int, typer.Option(min=2, help="Images to draw. Half are for validation.")
    ] = 1600,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 5,
    detector: Detector = "atss",
    no_dyhead: NoDyHead = False,
    seed: Seed = 0,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train, evaluate and export a small detector on drawn shapes, in minutes on two cores.

    Draws a COCO-format dataset of circles, squares, triangles, stars and crosses. Trains an ATSS
    detector with DyHead on one half and evaluates it on the other with pycocotools. Exports a
    SavedModel and runs it on image files in a fresh Python process without Keras.

    **Examples**

    keras-dyhead demo

    keras-dyhead demo --out runs/longer --epochs 12 --seed 1

    keras-dyhead demo --out runs/baseline --detector retinanet --no-dyhead
    """

    def build():
        from keras_dyhead.coco import draw_shapes
        from keras_dyhead.ops.arguments import check
        from keras_dyhead.training import Training, TrainingSettings
        from keras_dyhead.training.run import check_folder

        train, held_out = out / "shapes" / "train", out / "shapes" / "val"
        settings = TrainingSettings(
            images=train / "images",
            annotations=train / "instances.json",
            val_images=held_out / "images",
            val_annotations=held_out / "instances.json",
            epochs=epochs,
            batch_size=8,
            image_size=256,
            detector=detector,
            num_blocks=0 if no_dyhead else 1,
            max_level=6,
            anchor_octaves=2,
            anchor_ratios=(1.0,),
            eval_every=max(1, epochs // 2),
            seed=seed,
        )
        half = images // 2
        if check_folder(out, settings, resume, overwrite) is None:
            draw_shapes(train, images - half, seed=seed)
            draw_shapes(held_out, half, seed=seed, start=images - half)
        else:  # other images would change the halves
            files = settings.annotations, settings.val_annotations
            drawn = sum(len(json.loads(Path(f).read_text())["images"]) for f in files)
            check("images", images, images == drawn, f"{drawn}, as in the run to resume")
        return Training(settings, out, resume, overwrite)

    _run(build, out)


@app.command()
def train(
    context: typer.Context,
    images: Annotated[Path, options.existing_folder("Folder of the training images.")],
    annotations: options.Annotations,
    overrides: options.Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and results.", show_default=False)
    ] = None,
    recipe: options.Recipe = None,
    print_config: Annotated[
        bool,
        typer.Option(
            "--print-config", help="Print all settings and the values derived from them, then exit."
        ),
    ] = False,
    val_images: Annotated[
        Path | None, options.existing_folder("Folder of the validation images.")
    ] = None,
    val_annotations: Annotated[
        Path | None,
        options.existing_file("COCO JSON file with the annotations of the validation images."),
    ] = None,
    val_split: Annotated[
        float,
        typer.Option(
            help="Fraction of the training images to hold out for validation if --val-images is "
            "not given. With 0, the model is evaluated on the training images."
        ),
    ] = 0.0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Epochs to train. Default: 12, or enough for 600 steps if that is more."
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images per step on all devices together.")
    ] = 4,
    image_size: options.ImageSize = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Model to fine-tune: a .keras file, or the name of a published model (see "
            "`convert list`), which is downloaded once. All weights are kept, except those that "
            "depend on the classes if the classes differ.",
        ),
    ] = None,
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="backbone|pyramid|neck|head",
            help="Part of the model to freeze. Repeat the option for several parts.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="small (the default), resnet18, resnet50, resnet101, resnext101_64x4d, "
            "resnext101_64x4d_dcn or swin_tiny, with random weights. Or a KerasHub preset such as "
            "resnet_50_imagenet, which is downloaded, or the folder of a preset."
        ),
    ] = None,
    backbone_weights: Annotated[
        Path | None,
        options.existing_file("PyTorch checkpoint (.pth, .safetensors) for the backbone."),
    ] = None,
    detector: Annotated[
        str,
        typer.Option(
            metavar="atss|faster-rcnn|fcos|reppoints|retinanet",
            help="Detector to train, or the name of a published model (see `convert list`), whose "
            "architecture is used without its weights.",
        ),
    ] = "atss",
    num_blocks: Annotated[
        int | None, typer.Option(min=0, help="DyHead blocks. 0 trains without DyHead. Default: 2.")
    ] = None,
    no_dyhead: NoDyHead = False,
    channels: Annotated[
        int | None,
        typer.Option(help="Channels of the pyramid and DyHead, a multiple of 16. Default: 64."),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Peak learning rate. Default: 0.001, or 0.0001 with --weights."),
    ] = None,
    eval_every: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs between evaluations. Default: a fifth of all epochs."),
    ] = None,
    keep: Annotated[
        Literal["best", "last"],
        typer.Option(
            help="Weights to keep: those with the best AP on validation images, or the last."
        ),
    ] = "best",
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="Stop after this many evaluations without a better AP."),
    ] = None,
    jit_compile: Annotated[
        bool,
        typer.Option("--jit-compile", help="Compile with XLA. The first step then takes minutes."),
    ] = False,
    on_error: options.OnError = "raise",
    strategy: Annotated[
        str,
        typer.Option(
            metavar="none|mirrored|multiworker",
            help="Train on one device, on all GPUs of this machine, or on those of all machines in "
            "TF_CONFIG.",
        ),
    ] = "none",
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Make runs with equal settings give equal weights. This is slower.",
        ),
    ] = False,
    seed: Seed = 0,
    save_every: Annotated[
        int | None,
        typer.Option(min=1, help="Steps between extra checkpoints within an epoch. Default: none."),
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a detector with DyHead on your images, then evaluate and export it.

    Saves a checkpoint after every epoch. After an interruption, run the same command with --resume
    to continue. At the end, --out has the model (model.keras), a SavedModel that takes images or
    image files (saved_model/), the COCO metrics (metrics.json), the training history
    (history.json, .csv, .png) and pictures (detections.png). settings.json, written at the start,
    has all settings, values derived from them, and package versions. tensorboard/, written from the
    first evaluation on, has metrics, the AP of each class and pictures for TensorBoard.

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
        raise typer.BadParameter("Training needs a folder for its results.", param_hint="--out")

    def settings():
        from keras_dyhead.training import TrainingSettings

        fields = {field.name for field in dataclasses.fields(TrainingSettings)}
        given = options.given_options(context, fields & context.params.keys())
        if no_dyhead:
            given["num_blocks"] = 0
        return options.training_settings(recipe, overrides, given)

    def build():
        from keras_dyhead.training import Training

        return Training(settings(), out, resume, overwrite, save_every)

    if print_config:
        with quiet_tensorflow():
            from keras_dyhead.training.plan import planned_config

            config = planned_config(settings())
        print(json.dumps(config, indent=1))
        return
    if weights is not None:
        options.fetch_published(weights, Terminal())
    _run(build, out)


def _run(build: Callable[[], "Training"], out: Path) -> None:
    """Plans a training run, runs it and reports its results."""
    terminal = Terminal()
    reading = terminal.status("starting TensorFlow and reading the data")
    with reading, quiet_tensorflow(), options.problems_listed_below():
        planned = build()
    describe(planned, terminal)
    try:
        metrics = planned.run(verbose=1 if terminal.is_terminal else 2)
    except KeyboardInterrupt:
        terminal.print("\nInterrupted. Run the same command with --resume to continue.")
        raise typer.Exit(130) from None
    except (FloatingPointError, OSError) as error:
        print_error(error)
        raise typer.Exit(1) from None
    if metrics is None:  # only the chief process reports
        return
    report(metrics, out, terminal)
    if metrics["serving_check"] is not None and not metrics["serving_check"]["same"]:
        raise typer.Exit(1)
