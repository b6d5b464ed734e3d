"""The state of a training on disk, so that a killed process can go on."""

import json
import math
import re
import shutil
import time
from pathlib import Path

import keras

_FINISHED = re.compile(r"epoch-\d{5,}")


class EpochCheckpoint(keras.callbacks.Callback):
    """Saves the training state after every epoch: weights, optimizer, and the history so far.

    Each epoch becomes a folder `epoch-00012` that appears under this name in one step, complete;
    older ones are deleted afterwards. Whenever the process dies, the newest folder is whole.
    (Keras' `BackupAndRestore` keeps no history and rewrites its file in place.) List it after
    callbacks whose logs belong into the history.

    Args:
        directory: Folder of the checkpoints, created if absent.

    Attributes:
        records: One dictionary for every finished epoch: `epoch`, the logs, and `seconds`.

    Example:
    ```python
    checkpoint = EpochCheckpoint("run/checkpoints")
    checkpoint.restore(model)  # a compiled model; does nothing in a first run
    model.fit(data, epochs=9, initial_epoch=len(checkpoint.records), callbacks=[checkpoint])
    ```
    """

    def __init__(self, directory: str | Path):
        super().__init__()
        self.directory = Path(directory)
        self.records: list[dict[str, float]] = []
        self._started = 0.0

    def restore(self, model: keras.Model) -> None:
        """Loads the newest finished epoch into a compiled model and `records`, if there is one."""
        finished = self._finished()
        if finished:
            model.optimizer.build(model.trainable_variables)
            model.load_weights(finished[-1] / "state.weights.h5")
            self.records = json.loads((finished[-1] / "records.json").read_text())

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Starts the epoch's clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Saves the state; raises where the loss is no number any more, and saves nothing."""
        values = {name: float(value) for name, value in (logs or {}).items()}
        if not math.isfinite(values.get("loss", 0.0)):
            raise FloatingPointError(
                f"the loss became {values['loss']} in epoch {epoch + 1}: lower the learning rate; "
                "the state of the epoch before is kept"
            )
        seconds = round(time.perf_counter() - self._started, 3)
        self.records.append({"epoch": epoch + 1, **values, "seconds": seconds})
        unfinished = self.directory / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        self.model.save_weights(unfinished / "state.weights.h5")
        (unfinished / "records.json").write_text(json.dumps(self.records))
        unfinished.rename(self.directory / f"epoch-{epoch + 1:05d}")
        for older in self._finished()[:-1]:
            shutil.rmtree(older)

    def _finished(self) -> list[Path]:
        folders = self.directory.glob("epoch-*")
        return sorted(f for f in folders if _FINISHED.fullmatch(f.name))
