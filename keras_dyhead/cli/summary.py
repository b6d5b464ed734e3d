"""What a training run prints before its first step and after its last."""

from pathlib import Path
from typing import TYPE_CHECKING

from keras_dyhead.cli.console import Terminal, print_error, print_figures
from keras_dyhead.printable import counted, printable

if TYPE_CHECKING:  # TensorFlow takes seconds to import, so only the commands import it
    from keras_dyhead.training import Training


def describe(planned: "Training", terminal: Terminal) -> None:
    """Prints the data, model, plan and notes of a training run."""
    from keras_dyhead.coco.checks import list_problems
    from keras_dyhead.training.model import reinitialized_layers, step_memory

    def line(heading: str, text: str, style: str | None = None) -> None:
        terminal.print(f"{heading:>12}  {text}", style=style)

    settings, steps = planned.settings, len(planned.train_data)
    for heading, data in (("train on", planned.train_data), ("evaluate on", planned.val_data)):
        images = data.annotations.images
        boxes = sum(len(image.boxes) for image in images)
        counts = f"{counted(len(images), 'image')}, {counted(boxes, 'box')}"
        classes = counted(len(planned.class_names), "class")
        line(heading, f"{counts}, {classes}: {', '.join(map(printable, planned.class_names[:10]))}")
        for problem in list_problems(data.annotations.problems):
            line("", problem, "yellow")
    for note in planned.notes:
        line("note", note, "yellow")
    if not settings.held_out:
        line(
            "",
            "Without --val-images or --val-split, the metrics are measured on the training images, "
            "and the last epoch is kept.",
        )
    parameters = f"{planned.model.count_params():,} parameters"
    frozen = f", frozen: {', '.join(settings.freeze)}" if settings.freeze else ""
    line("model", f"{type(planned.model).__name__} {_origin(settings)}, {parameters}{frozen}")
    if settings.weights is not None:
        reset = ", ".join(reinitialized_layers(settings.weights, planned.class_names))
        changed = f" except those of {reset}, reset for the new classes" if reset else ""
        line("kept", f"all weights{changed}")
    memory = step_memory(planned.model, settings)
    sizes = [f"{height} x {width}" for height, width in settings.canvases or ()]
    line(
        "plan",
        f"{counted(settings.epochs, 'epoch')} of {counted(steps, 'step')}, "
        f"{counted(settings.batch_size, 'image')} of {', '.join(sizes) or settings.image_size} px "
        f"each; a step takes roughly {memory / 1e9:.1f} GB of memory",
    )
    scaled = settings.scaled(steps * settings.epochs)
    line(
        "optimizer",
        f"{settings.optimizer}, learning rate up to {scaled['peak_learning_rate']:.3g} for "
        f"{counted(scaled['images_per_update'], 'image')} per update, {settings.schedule} schedule "
        f"after {counted(scaled['warmup_steps'], 'warm-up step')}",
    )
    if planned.epochs_done or planned.steps_done:
        done = counted(planned.epochs_done, "epoch"), counted(planned.steps_done, "step")
        line("resumed", f"after {done[0]} and {done[1]}")


def _origin(settings) -> str:
    """The file of a trained model, or the parts of a new one."""
    if settings.weights is not None:
        return f"from {settings.weights}"
    backbone = settings.backbone
    if not isinstance(backbone, str):
        parts = {"class": "ResNetBackbone"} | backbone
        name = parts.pop("class")
        backbone = f"{name}({', '.join(f'{key}={value}' for key, value in parts.items())})"
    blocks = counted(settings.num_blocks, "DyHead block")
    return f"on {backbone}, {blocks} of {settings.channels} channels"


def report(metrics: dict, out: Path, terminal: Terminal) -> None:
    """Prints the metrics, files and serving check of a finished training run."""
    print_figures(metrics["figures"], metrics["images_evaluated"], terminal)
    terminal.print(
        f"the model is from epoch {metrics['epoch']} of {metrics['epochs']}; the metrics are for "
        f"{metrics['evaluated_on']} images"
    )
    terminal.print(
        f"trained in {metrics['timings']['training'] / 60:.1f} minutes; written to {out}:"
    )
    for path in sorted(out.iterdir()):
        terminal.print(f"  {path.name}{'/' if path.is_dir() else ''}")
    check = metrics["serving_check"]
    if check is None:  # the notes before training say why
        return
    if check["same"]:
        terminal.print(
            "A fresh Python process without Keras loaded saved_model/ and found the same "
            f"{counted(check['detections'], 'detection')} in "
            f"{counted(check['images'], 'image file')}.",
            style="green",
        )
    else:
        print_error(
            "The SavedModel, run in a fresh Python process, does not return the model's "
            f"detections. {check.get('error', '')}"
        )
