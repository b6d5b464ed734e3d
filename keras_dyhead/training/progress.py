"""Shows the progress of a training run and the time left on one line."""

import shutil
import statistics
import time
from collections import deque
from collections.abc import Callable

import keras

_RECENT = 100  # steps in the median time
_SECONDS = {True: 0.5, False: 60.0}  # between two updates in place, or two lines


class TrainingProgress(keras.callbacks.Callback):
    """Shows the progress of the whole run and the time left on one line. List it last.

    The time left is estimated from recent steps and the last evaluation and checkpoint. A first
    step slowed down by compilation is ignored once there is a second. `live` updates the line in
    place, for terminals, and prints one after every evaluation. Otherwise, one is printed after
    every epoch, and after every minute within it. `first_step` is the number of steps of the first
    epoch that are already done.
    """

    async_safe = True

    def __init__(
        self,
        steps_per_epoch: int,
        eval_every: int,
        live: bool = True,
        first_step: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ):
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self.eval_every = eval_every
        self.live = live
        self.clock = clock
        self._offset, self._epoch = first_step, 0
        self._steps: deque[float] = deque(maxlen=_RECENT)
        self._pauses: dict[bool, float] = {}
        self._begun = self._shown = clock()
        self._width = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        self._begun = self.clock()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        now = self.clock()
        self._steps.append(now - self._begun)
        if len(self._steps) == 2 and self._steps[0] > self._steps[1]:
            self._steps.popleft()  # the step that compiled
        self._begun, step = now, self._offset + batch + 1
        last = step == self.steps_per_epoch
        if now - self._shown > _SECONDS[self.live] or last and self.live:
            text = f"step {step}/{self.steps_per_epoch}"
            if last and self._evaluates(self._epoch):
                text += ", evaluating"
            left = self.seconds_left(self._epoch, step)
            self._show(text, logs, left, end="" if self.live else "\n")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Prints a line if the model was evaluated or the line is not updated in place."""
        evaluated, self._offset = self._evaluates(epoch), 0
        self._pauses[evaluated] = self.clock() - self._begun
        if evaluated or not self.live:
            left = self.seconds_left(epoch + 1, 0)
            self._show("done", logs, left, end="\n")

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._width:
            print()

    def seconds_left(self, epoch: int, step: int) -> float:
        """Estimates the seconds from a step of an epoch to the end of training."""
        epochs = self.params["epochs"]
        steps = (epochs - epoch) * self.steps_per_epoch - step
        ends = [self._evaluates(e) for e in range(epoch, epochs)]
        known = self._pauses or {False: 0.0}
        pauses = sum(known.get(evaluated, max(known.values())) for evaluated in ends)
        return steps * statistics.median(self._steps) + pauses

    def _evaluates(self, epoch: int) -> bool:
        return not (epoch + 1) % self.eval_every or epoch + 1 == self.params["epochs"]

    def _show(self, text: str, logs: dict | None, left: float, end: str) -> None:
        self._shown = self.clock()
        values = {name: float(value) for name, value in (logs or {}).items()}
        shown = [f"epoch {self._epoch + 1}/{self.params['epochs']}", text]
        shown += [f"loss {values['loss']:.4f}"] if "loss" in values else []
        figures = [n for n in values if n.split("_")[-1] in ("AP", "AP50")]
        shown += [f"{name} {values[name]:.3f}" for name in figures]
        if left:
            shown.append(f"{readable(left)} left")
        line = "  ".join(shown)
        if self.live:
            line = line[: shutil.get_terminal_size().columns - 1]
            print("\r" + line.ljust(self._width), end=end, flush=True)
            self._width = 0 if end else len(line)
        else:
            print(line, end=end, flush=True)


def readable(seconds: float) -> str:
    """Returns a duration in words.

    >>> readable(40), readable(100), readable(7500)
    ('40 s', '2 min', '2 h 5 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
