"""Runs training from a dataset and an empty folder to all its results."""

import dataclasses
import json
import shutil
import warnings
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_dyhead.checkpoints.durable import replace_file
from keras_dyhead.export.saved_model import check_loadable
from keras_dyhead.ops.arguments import check
from keras_dyhead.printable import counted
from keras_dyhead.training.callbacks import AveragedEvaluation, DataPosition, FiniteLoss
from keras_dyhead.training.checkpoint import EpochCheckpoint
from keras_dyhead.training.data import build_preprocessor, open_data
from keras_dyhead.training.model import build_detector
from keras_dyhead.training.plan import describe_data, resolve_settings, training_config
from keras_dyhead.training.progress import TrainingProgress
from keras_dyhead.training.results import RESULTS, write_results
from keras_dyhead.training.settings import TrainingSettings
from keras_dyhead.training.strategy import check_agreement, make_strategy, synchronize_batch_norm
from keras_dyhead.visualization import TensorBoardLog

STATE = "settings.json"
"""File that marks the folder of a training run."""

# A resumed run may have its data moved, its end postponed and its devices changed, but not its
# model.
_FREE_ON_RESUME = (
    *("images", "annotations", "val_images", "val_annotations", "backbone_weights", "weights"),
    *("epochs", "eval_every", "keep", "patience", "on_error", "jit_compile", "strategy"),
    "deterministic",
)


class Training:
    """Trains a detector with DyHead through `model.fit`, and can resume after an interruption.

    The constructor checks all input before it writes anything.

    Args:
        settings: Data, model and schedule.
        out: Folder for the results. Without `resume` or `overwrite`, it must be empty or absent.
        resume: Resume the run in `out`, if any, from its last checkpoint. Defaults to `False`.
        overwrite: Delete the run in `out` first, if there is one. Defaults to `False`.
        save_every: Steps between checkpoints within an epoch. Defaults to `None`: only at its end.

    Attributes:
        settings: The settings with all defaults filled in.
        strategy: The `tf.distribute` strategy.
        is_chief: Whether this process writes the files. Only one of several processes does.
        train_data: The training dataset, starting at the first step to do, see `load_coco`.
        val_data: The evaluation dataset.
        model: The compiled detector, restored if `resume`.
        epochs_done: Number of finished epochs.
        steps_done: Number of steps done in the next epoch.
        notes: Sentences about what may be unexpected, which are also issued as warnings.

    Raises:
        ValueError: If the data cannot be used, `out` contains files, or the settings have changed.

    Example:
    ```python
    settings = TrainingSettings("images", "instances.json", epochs=50, image_size=256)
    metrics = Training(settings, out="runs/mine").run()
    print(metrics["figures"]["AP50"])
    ```
    """

    def __init__(
        self,
        settings: TrainingSettings,
        out: str | Path,
        resume: bool = False,
        overwrite: bool = False,
        save_every: int | None = None,
    ):
        settings, self.notes = _what_runs_here(settings)
        if settings.deterministic:
            tf.config.experimental.enable_op_determinism()
        self.strategy = make_strategy(settings.strategy)
        self.is_chief = self.strategy.extended.should_checkpoint
        self.out = Path(out)
        earlier = None
        if self.is_chief or resume:
            earlier = check_folder(self.out, settings, resume, overwrite)
        for name in ("epochs", "anchor_scale") if earlier is not None else ():
            if getattr(settings, name) is None:
                settings = dataclasses.replace(settings, **{name: earlier["settings"][name]})
        replicas = self.strategy.num_replicas_in_sync
        expected = f"a multiple of {replicas}, the number of devices"
        check("batch_size", settings.batch_size, settings.batch_size % replicas == 0, expected)
        keras.utils.set_random_seed(settings.seed)
        best = settings.held_out and settings.keep == "best"
        self._checkpoint = EpochCheckpoint(
            self.out / "checkpoints",
            save_every,
            self.is_chief,
            monitor="val_AP" if best or settings.patience else None,
            patience=settings.patience,
        )
        if earlier is not None:
            self._checkpoint.find()
        preprocessor = build_preprocessor(settings)
        self.train_data, self.val_data = open_data(
            settings, preprocessor, self.epochs_done, self.steps_done, replicas > 1
        )
        self.settings = resolve_settings(settings, self.train_data.annotations)
        self.notes += self._remarks(earlier)
        for note in self.notes:
            warnings.warn(note, stacklevel=2)
        if earlier is not None:
            self._check_same(earlier)
            whole = self.settings.epochs > self.epochs_done or not self.steps_done
            expected = f"at least {self.epochs_done + 1}: the last checkpoint is inside this epoch"
            check("epochs", self.settings.epochs, whole, expected)
        with self.strategy.scope():
            self.model = build_detector(
                self.settings,
                self.class_names,
                steps=len(self.train_data) * self.settings.epochs,
                preprocessor=preprocessor,
            )
            if earlier is not None:
                self._checkpoint.restore(self.model)
        if replicas > 1:
            synchronize_batch_norm(self.model)
        if self.is_chief:
            if overwrite:
                _delete_results(self.out)
            self.out.mkdir(parents=True, exist_ok=True)
            state = training_config(self.settings, self.train_data)
            state["val_data"] = describe_data(self.val_data.annotations)
            replace_file(self.out / STATE, json.dumps(state, indent=1))

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return list(self.train_data.class_names)

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self._checkpoint.records)

    @property
    def steps_done(self) -> int:
        return self._checkpoint.steps

    def run(self, verbose: int = 1) -> dict | None:
        """Trains the remaining epochs and writes the results.

        Args:
            verbose: `0` is silent, `1` updates one line with the time left, `2` prints a line per
                epoch. Defaults to `1`.

        Returns:
            The content of `metrics.json`, see `write_results`. In processes other than the chief,
            `None`, once the chief has written everything.

        Raises:
            FloatingPointError: If the loss or a weight is not finite.
            OSError: If a checkpoint or a result cannot be written.
        """
        several = self.settings.strategy == "multiworker"
        if several:
            settings = dataclasses.asdict(self.settings)
            same = {name: settings[name] for name in settings if name not in _FREE_ON_RESUME}
            progress = [self.class_names, len(self.train_data), self.epochs_done, self.steps_done]
            check_agreement(self.strategy, [*progress, same])
        stopped = self._checkpoint.out_of_patience and not self.steps_done  # not inside an epoch
        if self.epochs_done < self.settings.epochs and not stopped:
            self._fit(verbose if self.is_chief else 0)
        else:  # `fit` does this at its end
            self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        if several:  # the chief has written its checkpoints
            check_agreement(self.strategy, "trained")
        epoch = None
        if self.settings.keep == "best":
            epoch = self._checkpoint.restore_best(self.model)
        metrics = None
        if self.is_chief:
            metrics = self._write_results(epoch)
        if several:
            check_agreement(self.strategy, "finished")
        return metrics

    def _fit(self, verbose: int) -> None:
        position = DataPosition(self.train_data, self._checkpoint)
        finite = FiniteLoss(self._images_of, self._checkpoint)
        log = TensorBoardLog(self.out / "tensorboard", self.val_data.annotations)
        evaluation = AveragedEvaluation(
            prefix=self.settings.figure_prefix,
            dataset=self.val_data,
            eval_freq=self.settings.eval_every,
            on_result=log if self.is_chief else None,
        )
        callbacks = [position, finite, evaluation, self._checkpoint]
        if verbose:
            steps, every = len(self.train_data), self.settings.eval_every
            callbacks.append(TrainingProgress(steps, every, verbose == 1, self.steps_done))
        self.model.fit(
            self.train_data,
            epochs=self.settings.epochs,
            initial_epoch=self.epochs_done,
            callbacks=callbacks,
            shuffle=False,  # the dataset shuffles itself
            verbose=0,
        )

    def _write_results(self, epoch: int | None) -> dict:
        try:
            records, annotations = self._checkpoint.records, self.val_data.annotations
            return write_results(self.model, annotations, self.settings, records, self.out, epoch)
        except (OSError, tf.errors.ResourceExhaustedError) as error:
            raise OSError(
                f"The results could not be written to {self.out} ({error}). All epochs are done, "
                f"and {self._checkpoint.kept()} is kept. Fix the problem (free space on a full "
                "disk), then write the results with --resume."
            ) from error

    def _images_of(self, epoch: int, step: int) -> str:
        names = {image.id: image.path.name for image in self.train_data.annotations.images}
        ids = self.train_data.image_ids(epoch, step)
        return "the images " + ", ".join(f"{number} ({names[number]})" for number in ids)

    def _remarks(self, earlier: dict | None) -> list[str]:
        """Returns the notes about the data and devices."""
        notes, replicas = [], self.strategy.num_replicas_in_sync
        if self.settings.strategy == "mirrored" and not tf.config.list_logical_devices("GPU"):
            notes.append(
                "TensorFlow finds no GPU on this machine: with the strategy 'mirrored', "
                f"the batch is shared by {counted(replicas, 'CPU device')}."
            )
        opened = self.train_data.annotations
        seen = set(np.concatenate([image.labels for image in opened.images]).astype(int).tolist())
        if empty := [name for label, name in enumerate(self.class_names) if label not in seen]:
            notes.append(f"The training images have no boxes of these classes: {empty[:20]}.")
        images = len(opened.images)
        left_out = images - len(self.train_data) * self.settings.batch_size
        if replicas > 1 and left_out > 0:
            notes.append(
                f"Each epoch leaves out {left_out} of {counted(images, 'image')} at random: only "
                f"whole batches give each of the {replicas} devices its share."
            )
        read = {"data": self.train_data}
        read |= {"val_data": self.val_data} if self.settings.held_out else {}
        for name, dataset in read.items() if earlier is not None else ():
            then, now = earlier[name], describe_data(dataset.annotations)
            if now != then:
                then, now = (
                    f"{counted(data['images'], 'image')} with {counted(data['boxes'], 'box')}"
                    for data in (then, now)
                )
                what = "data" if name == "data" else "validation data"
                notes.append(f"The {what} have changed: {then} before, {now} now.")
        return notes

    def _check_same(self, earlier: dict) -> None:
        if earlier["class_names"] != self.class_names:
            raise ValueError(
                f"{self.out} was trained on the classes {earlier['class_names']}. "
                f"Received: data with {self.class_names}"
            )
        now = json.loads(json.dumps(dataclasses.asdict(self.settings)))
        changed = [
            f"{name}={value} (now {now.get(name)})"
            for name, value in earlier["settings"].items()
            if name not in _FREE_ON_RESUME and now.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{self.out} was started with {', '.join(changed)}. Resume it with these settings."
            )


def _what_runs_here(settings: TrainingSettings) -> tuple[TrainingSettings, list[str]]:
    """Removes what only TensorFlow can do from the settings on other backends. Adds notes."""
    backend, notes = keras.backend.backend(), []
    if backend != "tensorflow":
        notes.append(
            f"Keras runs on {backend}, where no SavedModel can be written. "
            "`keras-dyhead export` makes one from model.keras."
        )
        if settings.strategy != "none":
            notes.append(
                f"The strategy {settings.strategy!r} requires TensorFlow. On {backend}, training "
                "runs on one device."
            )
            settings = dataclasses.replace(settings, strategy="none")
    return settings, notes


def check_folder(
    out: Path, settings: TrainingSettings, resume: bool = False, overwrite: bool = False
) -> dict | None:
    """Checks that a training run may write to a folder, which may contain the dataset.

    Returns:
        The content of `settings.json` of the run to resume, or `None`.

    Raises:
        ValueError: If the folder contains other files, or a run while neither `resume` nor
            `overwrite` is set; if `overwrite` would delete the weights to start from; if
            `settings.json` cannot be read; or if TensorFlow could not load a SavedModel from it.
    """
    if resume and overwrite:
        raise ValueError("`resume` and `overwrite` cannot both be set.")
    check_loadable(out)
    check("out", str(out), out.is_dir() or not out.exists(), "a folder")
    data = [settings.images, settings.annotations, settings.val_images, settings.val_annotations]
    data = [Path(path).resolve() for path in data if path is not None]
    entries = out.resolve().iterdir() if out.is_dir() else ()
    if all(any(path.is_relative_to(entry) for path in data) for entry in entries):
        return None
    if not (resume or overwrite):
        raise ValueError(
            f"{out} is not empty. Resume the run in it (--resume), delete it (--overwrite), "
            "or choose another folder."
        )
    if not (out / STATE).is_file():
        raise ValueError(f"{out} contains files but no training run: it has no {STATE}.")
    for path in filter(None, (settings.weights, settings.backbone_weights)):
        if overwrite and any(map(Path(path).resolve().is_relative_to, _results(out.resolve()))):
            raise ValueError(f"`overwrite` would delete {path}, from which the new run starts")
    return _read_state(out / STATE) if resume else None


def _read_state(path: Path) -> dict:
    try:
        state = json.loads(path.read_text())
        known = {"epochs", "anchor_scale"} <= state["settings"].keys()
        if known and {"class_names", "data", "val_data"} <= state.keys():
            return state
        fault = "it lacks settings"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fault = error
    raise ValueError(
        f"{path} is not as training wrote it ({fault}). Restart training with --overwrite."
    )


def _results(out: Path) -> list[Path]:
    """All that a training run may have written to its folder."""
    return [out / name for name in (STATE, "checkpoints", *RESULTS)]


def _delete_results(out: Path) -> None:
    for path in _results(out):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
