"""Kills a training at random moments and goes on with it; run by `test_reliability.py`.

    python -m training.killed DATA OUT KILLS SEED

The results are `OUT/undisturbed.npz` and `OUT/killed.npz`: records and weights.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_dyhead.training import Training, TrainingSettings, run


def train(data, out, begun):
    """Trains to the end and writes records and weights; says when the steps begin."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # starts sooner
    settings = TrainingSettings(
        images=data / "images",
        annotations=data / "instances.json",
        epochs=4,
        batch_size=2,
        image_size=64,
        detector="retinanet",
        num_blocks=0,
        channels=16,
        max_level=4,
        ema_momentum=0.9,
        eval_every=4,
        deterministic=True,
    )
    results = {}

    def remember(model, annotations, settings, records, out):
        results["records"] = np.array([[record["epoch"], record["loss"]] for record in records])
        results.update((weight.path, weight.numpy()) for weight in model.weights)

    run.write_results = remember
    training = Training(settings, out, resume=True, save_every=2)
    first_step = training.model.make_train_function

    def tell(*args, **kwargs):
        os.write(begun, b"x")
        return first_step(*args, **kwargs)

    training.model.make_train_function = tell
    training.run(verbose=0)
    np.savez(out.with_suffix(".npz"), **results)


def start(data, out):
    """Forks a process that trains; returns its number and a pipe that says when steps begin."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        train(data, out, writing)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)


def main(data, out, kills, seed):
    random.seed(seed)
    process, reading = start(data, out / "undisturbed")
    os.read(reading, 1)
    began = time.monotonic()
    assert os.waitpid(process, 0)[1] == 0
    seconds = time.monotonic() - began
    for _ in range(kills):
        process, reading = start(data, out / "killed")
        os.read(reading, 1)
        time.sleep(random.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        ended = os.waitpid(process, 0)[1]
        found = sorted(path.name for path in (out / "killed" / "checkpoints").glob("*"))
        print("killed" if ended == signal.SIGKILL else "ended", *found, flush=True)
        assert ended in (0, signal.SIGKILL)
    process, _ = start(data, out / "killed")
    assert os.waitpid(process, 0)[1] == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
