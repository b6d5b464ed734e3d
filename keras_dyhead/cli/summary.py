"""What a training prints before its first step and after its last."""

from pathlib import Path
from typing import TYPE_CHECKING

from keras_dyhead.cli.console import Terminal, print_error, print_figures
from keras_dyhead.printable import counted, printable

if TYPE_CHECKING:  # TensorFlow takes seconds to import, so only the commands import it
    from keras_dyhead.training import Training


def describe(planned: "Training", terminal: Terminal) -> None:
    """Prints the data, model, plan and notes of a training."""
    from keras_dyhead.coco.checks import list_problems

    settings = planned.settings
    for name, data in (("train on", planned.train_data), ("evaluate on", planned.val_data)):
        annotations = data.annotations
        boxes = sum(len(image.boxes) for image in annotations.images)
        names = ", ".join(map(printable, planned.class_names[:10]))
        terminal.print(
            f"{name:>12}  {counted(len(annotations.images), 'image')}, {counted(boxes, 'box')}, "
            f"{counted(len(planned.class_names), 'class')}: {names}"
        )
        for line in list_problems(annotations.problems):
            terminal.warn(f"{'':>12}  {line}")
    for note in planned.notes:
        terminal.warn(f"{'note':>12}  {note}")
    if not settings.held_out:
        terminal.print(
            f"{'':>12}  Without --val-images or --val-split, the metrics are measured on the "
            "training images, and the last epoch is kept."
        )
    frozen = f", frozen: {', '.join(settings.freeze)}" if settings.freeze else ""
    if settings.weights is not None:
        _describe_weights(planned, frozen, terminal)
    else:
        _describe_model(planned, frozen, terminal)
    _describe_plan(planned, terminal)


def _describe_weights(planned: "Training", frozen: str, terminal: Terminal) -> None:
    from keras_dyhead.training.fine_tuning import reinitialized_layers

    terminal.print(
        f"{'model':>12}  {type(planned.model).__name__} from {planned.settings.weights}, "
        f"{planned.model.count_params():,} parameters{frozen}"
    )
    reset = reinitialized_layers(planned.settings.weights, planned.class_names)
    terminal.print(
        f"{'kept':>12}  all weights"
        + (f" except those of {', '.join(reset)}, reset for the new classes" if reset else "")
    )


def _describe_model(planned: "Training", frozen: str, terminal: Terminal) -> None:
    settings = planned.settings
    backbone = settings.backbone
    if not isinstance(backbone, str):
        parts = {"class": "ResNetBackbone"} | backbone
        name = parts.pop("class")
        backbone = f"{name}({', '.join(f'{key}={value}' for key, value in parts.items())})"
    terminal.print(
        f"{'model':>12}  {type(planned.model).__name__} on {backbone}, "
        f"{counted(settings.num_blocks, 'DyHead block')} of {settings.channels} channels, "
        f"{planned.model.count_params():,} parameters{frozen}"
    )


def _describe_plan(planned: "Training", terminal: Terminal) -> None:
    settings = planned.settings
    steps = len(planned.train_data) * settings.epochs
    sizes = [f"{height} x {width}" for height, width in settings.canvases or ()]
    terminal.print(
        f"{'plan':>12}  {counted(settings.epochs, 'epoch')} of "
        f"{counted(len(planned.train_data), 'step')}, {counted(settings.batch_size, 'image')} "
        f"of {', '.join(sizes) or settings.image_size} px each; "
        f"a step takes roughly {planned.step_memory / 1e9:.1f} GB of memory"
    )
    scaled = settings.scaled(steps)
    terminal.print(
        f"{'optimizer':>12}  {settings.optimizer}, learning rate up to "
        f"{scaled['peak_learning_rate']:.3g} for {counted(scaled['images_per_update'], 'image')} "
        f"per update, {settings.schedule} schedule after "
        f"{counted(scaled['warmup_steps'], 'warm-up step')}"
    )
    if planned.epochs_done or planned.steps_done:
        terminal.print(
            f"{'resumed':>12}  after {counted(planned.epochs_done, 'epoch')} and "
            f"{counted(planned.steps_done, 'step')}"
        )


def report(metrics: dict, out: Path, terminal: Terminal) -> None:
    """Prints the metrics, files and serving check of a finished training."""
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
    if check is None:  # the notes before the training say why
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
