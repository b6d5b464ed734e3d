"""A training goes on after whatever ended it, and says what went wrong."""

import errno
import functools
import os
import resource
import subprocess
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_dyhead.coco import draw_shapes
from keras_dyhead.training import EpochCheckpoint
from keras_dyhead.training.averaged import averaged_weights
from keras_dyhead.training.data_position import DataPosition
from keras_dyhead.training.finite_loss import FiniteLoss

STEPS = 4


def noisy_model(loss_scaling=False):
    """A model whose training depends on all the state there is: seeds, averages, schedule."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 20)
    optimizer = keras.optimizers.Adam(schedule, use_ema=True, ema_momentum=0.9)
    if loss_scaling:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 2.0**127, 3)
    model.compile(optimizer, "mse")
    return model


def data(first_step=0, nan_in_row=None):
    """Eight rows in four steps; the first iteration may begin later, as that of `load_coco`."""
    x = np.linspace(-1, 1, 24, dtype="float32").reshape(8, 3)
    y = 10 * x[:, :1]
    y[[] if nan_in_row is None else nan_in_row] = np.nan
    first = [first_step]

    def batches():
        begin, first[0] = first[0], 0
        for step in range(begin, STEPS):
            rows = slice(2 * step, 2 * step + 2)
            yield x[rows], y[rows]

    signature = (tf.TensorSpec((2, 3)), tf.TensorSpec((2, 1)))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    dataset.cardinality = lambda: tf.constant(STEPS, "int64")
    dataset.epochs = types.SimpleNamespace(set=lambda epoch: None)
    return dataset


class Kill(keras.callbacks.Callback):
    """Breaks off before a step, or after an epoch's checkpoint where the step is `STEPS`."""

    def __init__(self, epoch, step):
        super().__init__()
        self.epoch, self.step, self.now = epoch, step, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.now = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.now, batch) == (self.epoch, self.step):
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        if (epoch, STEPS) == (self.epoch, self.step):
            raise KeyboardInterrupt


def train(model, folder, epochs=3, kill=(), **options):
    """Trains, going on after what `folder` holds, as `Training` does."""
    checkpoint = EpochCheckpoint(folder, **options)
    checkpoint.restore(model)
    first = data(checkpoint.steps)
    callbacks = [DataPosition(first, checkpoint.steps), checkpoint]
    callbacks += [Kill(*moment) for moment in kill]
    start = len(checkpoint.records)
    model.fit(first, epochs=epochs, initial_epoch=start, callbacks=callbacks, verbose=0)
    return checkpoint


def state(model):
    return [v.numpy() for v in [*model.weights, *model.optimizer.variables]]


@pytest.mark.parametrize(
    ("epoch", "step", "loss_scaling"),
    [(0, 1, False), (0, 3, True), (1, 2, True), (1, STEPS, False)],
)
def test_a_training_broken_off_anywhere_ends_with_the_same_bits(
    tmp_path, epoch, step, loss_scaling
):
    whole, first, second = (noisy_model(loss_scaling) for _ in range(3))
    train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(first, tmp_path / "parts", kill=[(epoch, step)], save_every=1)
    names = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert len(names) <= 2
    checkpoint = train(second, tmp_path / "parts", save_every=1)
    for a, b in zip(state(whole), state(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [record["epoch"] for record in checkpoint.records] == [1, 2, 3]


def test_skipped_steps_are_no_nan_and_the_loss_scale_is_restored(tmp_path):
    model = noisy_model(loss_scaling=True)
    finite = FiniteLoss(lambda epoch, step: "none")
    model.fit(data(), epochs=1, callbacks=[finite, EpochCheckpoint(tmp_path)], verbose=0)
    assert int(model.optimizer.iterations) < STEPS
    scale = float(model.optimizer.dynamic_scale)
    assert scale < 2.0**127
    restored = noisy_model(loss_scaling=True)
    EpochCheckpoint(tmp_path).restore(restored)
    assert float(restored.optimizer.dynamic_scale) == scale


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, damage):
    whole, model = noisy_model(), noisy_model()
    records = train(whole, tmp_path).records
    weights = tmp_path / "epoch-00003" / "state.npz"
    content = bytearray(weights.read_bytes())
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="epoch-00003 is damaged.*the one before"):
        checkpoint = train(model, tmp_path)
    for a, b in zip(state(whole), state(model), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [r["loss"] for r in checkpoint.records] == [r["loss"] for r in records]
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["damaged-epoch-00003", "epoch-00002", "epoch-00003"]


def test_a_training_without_a_whole_checkpoint_does_not_begin_anew_by_itself(tmp_path):
    train(noisy_model(), tmp_path, epochs=2)
    for folder in tmp_path.glob("epoch-*"):
        (folder / "records.json").write_text("[]")
    with pytest.warns(RuntimeWarning), pytest.raises(ValueError, match="No checkpoint.*anew"):
        EpochCheckpoint(tmp_path).find()


@pytest.mark.parametrize("cause", ["no space", "file size"])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_what_to_do(tmp_path, cause, monkeypatch):
    train(noisy_model(), tmp_path, epochs=2)
    model = noisy_model()
    checkpoint = EpochCheckpoint(tmp_path)
    checkpoint.restore(model)
    checkpoint.set_model(model)
    message = r"epoch-00003 could not be written.*Make room for \d+ MB.*epoch-00002 is kept"
    if cause == "no space":

        def write(path, *arrays):
            path.write_bytes(b"part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(np, "savez", write)
        with pytest.raises(OSError, match=message):
            checkpoint.on_epoch_end(2, {"loss": 1.0})
        monkeypatch.undo()
    else:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
        try:
            with pytest.raises(OSError, match=message):
                checkpoint.on_epoch_end(2, {"loss": 1.0})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["epoch-00001", "epoch-00002"] and len(checkpoint.records) == 2
    again = EpochCheckpoint(tmp_path)
    again.restore(noisy_model())
    assert again.records == checkpoint.records


def test_only_the_chief_writes(tmp_path):
    checkpoint = train(noisy_model(), tmp_path / "absent", epochs=2, write=False, save_every=1)
    assert len(checkpoint.records) == 2 and not list(tmp_path.iterdir())


def test_a_nan_stops_at_its_step_and_names_the_images(tmp_path):
    model, asked = noisy_model(), []

    def images_of(epoch, step):
        asked.append((epoch, step))
        return "the images 7 (a.jpg)"

    checkpoint = EpochCheckpoint(tmp_path)
    finite = FiniteLoss(images_of, checkpoint.kept)
    fit = functools.partial(model.fit, callbacks=[finite, checkpoint], verbose=0)
    fit(data(), epochs=1)
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 3, on the images 7 \(a.jpg\)"):
        fit(data(nan_in_row=5), epochs=5, initial_epoch=1)
    assert asked == [(1, 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001"]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    """Where the loss was still finite, but the gradient was not."""
    model = noisy_model()
    train(model, tmp_path, epochs=1)
    checkpoint = EpochCheckpoint(tmp_path)
    checkpoint.restore(model)
    checkpoint.set_model(model)
    model.weights[0].assign(model.weights[0] * np.inf)
    with pytest.raises(FloatingPointError, match="epoch-00002.*epoch-00001 is kept"):
        checkpoint.on_epoch_end(1, {"loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001"]


def test_averaged_weights_are_lent_and_every_bit_is_returned():
    model, own = noisy_model(), []

    def lend(epoch, logs):
        own[:] = model.get_weights()
        with averaged_weights(model):
            lent[:] = model.get_weights()
        for a, b in zip(own, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)

    lent = []
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=lend)]
    model.fit(data(), epochs=1, callbacks=callbacks, verbose=0)
    assert any((a != b).any() for a, b in zip(own, lent, strict=True))
    for a, b in zip(lent, model.get_weights(), strict=True):  # `fit` ends with the averages
        np.testing.assert_array_equal(a, b)


def kill_at_random(folder, kills, epochs):
    """Results of a training that was left alone, and of one that was killed so many times."""
    draw_shapes(folder / "data", 10, image_size=64, empty_fraction=0)
    process = subprocess.run(
        [sys.executable, "-m", "training.killed", folder / "data", folder, str(kills), str(epochs)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120 * (kills + 3),
    )
    assert process.returncode == 0, process.stdout + process.stderr[-3000:]
    assert process.stdout.count("killed") == kills
    with np.load(folder / "undisturbed.npz") as a, np.load(folder / "killed.npz") as b:
        undisturbed, killed = dict(a), dict(b)
    assert set(undisturbed) == set(killed) and len(undisturbed) > 50
    for name in set(undisturbed) - {"records"}:
        np.testing.assert_array_equal(undisturbed[name], killed[name], err_msg=name)
    np.testing.assert_array_equal(killed["records"][:, 0], np.arange(epochs) + 1)
    left = sorted(path.name for path in (folder / "killed" / "checkpoints").iterdir())
    assert left == [f"epoch-{epochs - 1:05d}-step-0000004", f"epoch-{epochs:05d}"]


@pytest.mark.slow
def test_a_deterministic_training_killed_twice_ends_with_the_same_bits(tmp_path):
    kill_at_random(tmp_path, kills=2, epochs=2)


@pytest.mark.slow
def test_a_deterministic_training_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    kill_at_random(tmp_path, kills=20, epochs=12)
