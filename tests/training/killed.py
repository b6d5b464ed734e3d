"""Kills a training run at random moments and resumes it; run by `test_checkpoint.py`.

    python -m training.killed DATA OUT KILLS EPOCHS

The results are `OUT/undisturbed.npz` and `OUT/killed.npz`: records and weights.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_dyhead.training import Training, TrainingSettings, run


def train(data, out, epochs, pulse):
    """Trains to the end and writes records and weights; writes a byte after each step."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # starts sooner
    settings = TrainingSettings(
        images=data / "images",
        annotations=data / "instances.json",
        epochs=epochs,
        batch_size=2,
        image_size=64,
        detector="retinanet",
        num_blocks=0,
        channels=16,
        max_level=5,
        ema_momentum=0.9,
        eval_every=epochs,
        deterministic=True,
    )
    results = {}

    def remember(model, annotations, settings, records, out, epoch):
        results["records"] = np.array([[record["epoch"], record["loss"]] for record in records])
        results.update((weight.path, weight.numpy()) for weight in model.weights)

    class Pulse(run.FiniteLoss):
        def on_train_batch_end(self, batch, logs=None):
            super().on_train_batch_end(batch, logs)
            os.write(pulse, b"x")

    run.write_results, run.FiniteLoss = remember, Pulse
    run.AveragedEvaluation = lambda *args, **kwargs: keras.callbacks.Callback()  # starts sooner
    Training(settings, out, resume=True, save_every=2).run(verbose=0)
    np.savez(out.with_suffix(".npz"), **results)


def start(data, out, epochs):
    """Forks a process that trains; returns its ID and a file with a byte for each step."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, open(reading, "rb", buffering=0)
    try:
        train(data, out, epochs, writing)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)


def main(data, out, kills, epochs):
    """Every fourth process is killed before its first step, the others up to four steps later."""
    random.seed(0)
    began = time.monotonic()
    process, pulse = start(data, out / "undisturbed", epochs)
    pulse.read(1)
    seconds = time.monotonic() - began
    assert os.waitpid(process, 0)[1] == 0
    for number in range(kills):
        process, pulse = start(data, out / "killed", epochs)
        if number % 4 == 3:
            time.sleep(random.uniform(0, seconds))
        else:
            for _ in range(random.randint(1, 4)):
                pulse.read(1)
            time.sleep(random.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
        assert os.waitpid(process, 0)[1] == signal.SIGKILL
        found = sorted(path.name for path in (out / "killed" / "checkpoints").glob("*"))
        print("killed, leaving", *found, flush=True)
    process, _ = start(data, out / "killed", epochs)
    assert os.waitpid(process, 0)[1] == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
