"""Saves the state of a training run, so that it can resume after the process is killed."""

import contextlib
import json
import math
import re
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_dyhead.checkpoints.durable import check_folder_content, write_folder

_FINISHED = re.compile(r"epoch-(\d{5,})(?:-step-(\d{7,}))?")
_KEPT = 2


class EpochCheckpoint(keras.callbacks.Callback):
    """Saves the training state: weights, optimizer, random seeds, position, and history so far.

    Each state is a folder: `epoch-00012` after 12 epochs, `epoch-00012-step-0000500` after 500
    steps more. Folders are created atomically and flushed to disk. The two newest are kept: if the
    newest is damaged, `find` warns and uses the one before. (Keras' `BackupAndRestore` stores no
    history and no position inside an epoch, and overwrites its file in place.) List this callback
    after those whose logs belong in the history.

    Args:
        directory: Folder of the checkpoints, created if absent.
        save_every: Steps between checkpoints within an epoch. Defaults to `None`: only at its end.
        write: Whether to write files. Only one of several processes should. Defaults to `True`.
        monitor: Name of a value in the logs, such as `"val_AP"`. The weights of the epoch with the
            largest value, the last of equals, are kept too, averaged if the optimizer averages.
            Epochs before `monitor` was set do not count. Defaults to `None`.
        patience: Values of `monitor` without a better one before training stops. Defaults to
            `None`: it never stops.

    Attributes:
        records: One dictionary per finished epoch: `epoch`, the logs, and `seconds`.
        steps: Steps of the next epoch that the restored state has already done.
    """

    def __init__(
        self,
        directory: str | Path,
        save_every: int | None = None,
        write: bool = True,
        monitor: str | None = None,
        patience: int | None = None,
    ):
        super().__init__()
        self.monitor = monitor
        self.patience = patience
        self.directory = Path(directory)
        self.save_every = save_every
        self.write = write
        self.records: list[dict[str, float]] = []
        self.steps = 0
        self._newest: Path | None = None
        self._lost: set[int] = set()  # epochs whose weights an earlier process did not keep
        self._seconds = self._started = 0.0

    def find(self) -> None:
        """Reads `records` and `steps` of the newest intact checkpoint, if there is one.

        Raises:
            ValueError: If there are checkpoints but all are damaged.
        """
        found = self._finished()
        for folder in reversed(found):
            if not _is_intact(folder, "Using the checkpoint before."):
                if self.write:
                    folder.rename(folder.with_name(f"damaged-{folder.name}"))
                continue
            self._newest = folder
            self.records = json.loads((folder / "records.json").read_text())
            position = json.loads((folder / "position.json").read_text())
            self.steps, self._seconds = position["steps"], position["seconds"]
            epochs = range(1, len(self.records) + 1)
            self._lost = {epoch for epoch in epochs if not self._best_folder(epoch).exists()}
            return
        if found:
            raise ValueError(
                f"No checkpoint in {self.directory} can be read. Restart training with --overwrite."
            )

    def restore(self, model: keras.Model) -> None:
        """Loads the newest intact checkpoint into a compiled model, if there is one; see `find`.

        Raises:
            ValueError: If it is of another model or optimizer.
        """
        if self._newest is None:
            self.find()
        if self._newest is not None:
            model.optimizer.build(model.trainable_variables)
            with np.load(self._newest / "state.npz") as arrays:
                try:
                    for variable, name in zip(_state(model), arrays, strict=True):
                        variable.assign(arrays[name])
                except ValueError:
                    raise ValueError(
                        f"{self._newest} is the state of another model or optimizer. Resume "
                        "training with those it was started with."
                    ) from None

    @property
    def best(self) -> int | None:
        """The last epoch with the best value of `monitor` whose weights are kept, from 1.

        Of equal epochs, such as those with an AP of 0, the last one has trained most.
        """
        known = self._monitored()
        kept = known.keys() - self._lost
        return max(kept, key=lambda epoch: (known[epoch], epoch), default=None)

    @property
    def out_of_patience(self) -> bool:
        """Whether none of the last `patience` values of `monitor` was better."""
        known = self._monitored()
        if self.patience is None or not known:
            return False
        first = max(known, key=known.get)  # an equal value is no better one
        return first in list(known)[: -self.patience]

    def _monitored(self) -> dict[int, float]:
        values = {record["epoch"]: record.get(self.monitor) for record in self.records}
        return {epoch: value for epoch, value in values.items() if value is not None}

    def restore_best(self, model: keras.Model) -> int | None:
        """Loads the weights of the best epoch and returns its number, or `None` without any."""
        if self.best is None:
            if self._monitored():
                message = "The weights of the best epoch were not kept. Using the last weights."
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            return None
        folder = self._best_folder(self.best)
        if not _is_intact(folder, "Using the last weights."):
            return None
        with np.load(folder / "weights.npz") as arrays:
            model.set_weights([arrays[name] for name in arrays])
        return self.best

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._started = time.perf_counter() - self._seconds

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Saves the state every `save_every` steps."""
        done = self.steps + batch
        if self.save_every and batch and done % self.save_every == 0:
            self._save(f"epoch-{len(self.records):05d}-step-{done:07d}", done)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Saves the state, or raises an error if a weight is not finite."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        seconds = round(time.perf_counter() - self._started, 3)
        self.records.append({"epoch": epoch + 1, **values, "seconds": seconds})
        try:
            if self.best == epoch + 1:
                self._save_best(epoch + 1)
            self._save(f"epoch-{epoch + 1:05d}", steps=0)
        except BaseException:
            self.records.pop()
            raise
        self.steps, self._seconds = 0, 0.0
        for folder in list(self.directory.glob("best-*")) if self.write and self.best else ():
            if folder != self._best_folder(self.best):
                shutil.rmtree(folder)
        if self.out_of_patience:
            self.model.stop_training = True

    def kept(self) -> str:
        """Describes the newest checkpoint for error messages."""
        finished = self._finished()
        return f"the checkpoint {finished[-1]}" if finished else "no checkpoint"

    def _save(self, name: str, steps: int) -> None:
        if keras.backend.backend() == "jax":  # within an epoch, Keras keeps the state elsewhere
            self.model.jax_state_sync()
        if not all(bool(ops.all(ops.isfinite(weight))) for weight in self.model.weights):
            raise FloatingPointError(
                f"weights are not finite at {name}: lower the learning rate; {self.kept()} is kept"
            )

        state = map(ops.convert_to_numpy, _state(self.model))
        seconds = time.perf_counter() - self._started if steps else 0.0
        position = {"steps": steps, "seconds": seconds}
        self._write(name, "state.npz", state, records=self.records, position=position)
        for older in self._finished()[:-_KEPT] if self.write else ():
            shutil.rmtree(older)

    def _save_best(self, epoch: int) -> None:
        with averaged_weights(self.model):  # in every process: all must take part in assigning
            weights = self.model.get_weights()
        folder = self._best_folder(epoch)
        if self.write:  # may be left by a process that died here
            shutil.rmtree(folder, ignore_errors=True)
        self._write(folder.name, "weights.npz", weights)

    def _write(self, name: str, file: str, arrays: Iterable, **records: object) -> None:
        """Writes a folder with a file of arrays and JSON files, unless another process does."""
        if not self.write:
            return

        def write(folder: Path) -> None:
            np.savez(folder / file, *arrays)
            for key, record in records.items():
                (folder / f"{key}.json").write_text(json.dumps(record))

        try:
            write_folder(self.directory / name, write)
        except OSError as error:
            size = sum(4 * math.prod(variable.shape) for variable in _state(self.model)) / 1e6
            raise OSError(
                f"The checkpoint {self.directory / name} could not be written ({error}). Free "
                f"{size:.0f} MB there, then continue with --resume; {self.kept()} is kept."
            ) from error

    def _best_folder(self, epoch: int) -> Path:
        return self.directory / f"best-{epoch:05d}"

    def _finished(self) -> list[Path]:
        """Returns the checkpoints, oldest first."""
        found = [(_FINISHED.fullmatch(f.name), f) for f in self.directory.glob("epoch-*")]
        ages = [(int(m[1]), int(m[2] or 0), folder) for m, folder in found if m]
        return [folder for *_, folder in sorted(ages)]


def _is_intact(folder: Path, otherwise: str) -> bool:
    """Whether a folder is as it was written. If not, warns of what happens `otherwise`."""
    try:
        check_folder_content(folder)
    except (OSError, ValueError) as error:
        warnings.warn(f"{folder} is damaged ({error}). {otherwise}", RuntimeWarning, stacklevel=3)
        return False
    return True


def _state(model: keras.Model) -> list[keras.Variable]:
    """Returns all variables that training changes: of the model, random seeds and optimizer."""
    seeds = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    return [*model.weights, *seeds, *model.optimizer.variables]


@contextlib.contextmanager
def averaged_weights(model: keras.Model) -> Iterator[None]:
    """Temporarily gives a compiled model the weights that it will have at the end of `fit`.

    An optimizer with `use_ema=True` keeps a moving average of the weights, which replaces them
    when `fit` ends. On exit, the weights are restored exactly. (Keras' `SwapEMAWeights` swaps by
    adding and subtracting, which rounds.)
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    if not optimizer.use_ema:
        yield
        return
    weights = model.trainable_variables
    own = [keras.ops.convert_to_numpy(weight) for weight in weights]
    optimizer.finalize_variable_values(weights)
    try:
        yield
    finally:
        for weight, value in zip(weights, own, strict=True):
            weight.assign(value)
