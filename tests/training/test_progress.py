"""One line shows the progress of a training run and the time left."""

import pytest

from keras_dyhead.training.progress import TrainingProgress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def trained(progress, clock, epochs, steps, evaluation=30.0):
    """Simulates a training run with a first step of a minute and then one step per second."""
    progress.set_params({"epochs": epochs})
    for epoch in range(epochs):
        progress.on_epoch_begin(epoch)
        for step in range(steps):
            clock.now += 60 if (epoch, step) == (0, 0) else 1
            logs = {"loss": 2.0 - epoch}
            progress.on_train_batch_end(step, logs)
            yield epoch, step
        clock.now += evaluation if (epoch + 1) % 2 == 0 else 2
        figures = {"val_AP": 0.25, "val_AR1": 0.5} if (epoch + 1) % 2 == 0 else {}
        progress.on_epoch_end(epoch, logs | figures)
    progress.on_train_end()


def test_the_time_left_counts_steps_evaluations_and_checkpoints(capsys):
    clock = Clock()
    progress = TrainingProgress(10, 2, clock=clock)
    left = [progress.seconds_left(*position) for position in _positions(progress, clock)]
    # After the second step, which did not compile: 38 steps; pauses are not known yet.
    assert left[1] == 38
    # In the third epoch: 19 steps, a checkpoint of 2 s and an evaluation of 30 s.
    assert left[20] == pytest.approx(19 + 2 + 30)
    assert left[-1] == 30


def _positions(progress, clock):
    for epoch, step in trained(progress, clock, epochs=4, steps=10):
        yield epoch, step + 1


def test_a_terminal_has_one_line_and_one_for_each_evaluation(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    list(trained(TrainingProgress(10, 2, clock=(clock := Clock())), clock, epochs=4, steps=10))
    shown = capsys.readouterr().out
    lines = shown.split("\n")
    assert len(lines) == 3 and lines[-1] == ""
    renewals = [line.rstrip() for line in lines[0].split("\r")]
    assert max(map(len, renewals)) < 80
    assert renewals[3].startswith("epoch 1/4  step 3/10  loss 2.0000  ")
    assert "step 10/10, evaluating" in shown
    assert renewals[-1].startswith("epoch 2/4  done  loss 1.0000  val_AP 0.250")


def test_without_a_terminal_each_epoch_and_each_minute_have_a_line(capsys):
    progress = TrainingProgress(10, 2, live=False, clock=(clock := Clock()))
    list(trained(progress, clock, epochs=4, steps=10))
    begun, *lines = capsys.readouterr().out.splitlines()
    assert begun == "epoch 1/4  step 2/10  loss 2.0000  38 s left"  # the first step took a minute
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert lines[1].endswith("val_AP 0.250  52 s left") and not lines[3].endswith("left")
