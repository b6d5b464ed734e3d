"""A training run resumes after any interruption and reports what went wrong."""

import functools
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from training.noisy import STEPS, data, noisy_model, state, train

from keras_dyhead.coco import draw_shapes
from keras_dyhead.training.checkpoint import EpochCheckpoint, averaged_weights


class Kill(keras.callbacks.Callback):
    """Interrupts training before a step, or after the epoch's checkpoint if the step is `STEPS`."""

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


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Returns the folder, the state and the records of a training run of three epochs."""

    @functools.cache
    def undisturbed(loss_scaling=False):
        folder, model = tmp_path_factory.mktemp("undisturbed"), noisy_model(loss_scaling)
        records = train(model, folder).records
        return folder, state(model), records

    return undisturbed


@pytest.fixture
def copy(undisturbed, tmp_path):
    """A folder with the checkpoints of the second and the third epoch."""
    return shutil.copytree(undisturbed()[0], tmp_path / "copy")


@pytest.mark.parametrize(
    ("epoch", "step", "loss_scaling"),
    [(0, 1, False), (0, 3, True), (1, 2, True), (1, STEPS, False)],
)
def test_a_run_interrupted_anywhere_ends_with_the_same_bits(
    tmp_path, undisturbed, epoch, step, loss_scaling
):
    _, expected, records = undisturbed(loss_scaling)
    first, second = noisy_model(loss_scaling), noisy_model(loss_scaling)
    with pytest.raises(KeyboardInterrupt):
        train(first, tmp_path, also=[Kill(epoch, step)], save_every=1)
    assert len(list(tmp_path.iterdir())) <= 2
    checkpoint = train(second, tmp_path, save_every=1)
    for a, b in zip(expected, state(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert [record["epoch"] for record in checkpoint.records] == [1, 2, 3]
    assert checkpoint.records[-1]["loss"] == records[-1]["loss"]


def test_the_best_weights_are_the_averages_of_their_epoch(tmp_path):
    scores, averages = [0.1, 0.5, 0.5, 0.2], []

    def score(epoch, logs):
        logs["val_AP"] = scores[epoch]
        with averaged_weights(model):
            averages.append(model.get_weights())

    model = noisy_model()
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=score)]
    callbacks.append(EpochCheckpoint(tmp_path, monitor="val_AP", patience=3))
    model.fit(data(), epochs=4, callbacks=callbacks, verbose=0)
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "best-00003",
        "epoch-00003",
        "epoch-00004",
    ]

    found, model = EpochCheckpoint(tmp_path, monitor="val_AP"), noisy_model()
    found.restore(model)
    assert found.restore_best(model) == 3
    for a, b in zip(model.get_weights(), averages[2], strict=True):
        np.testing.assert_array_equal(a, b)
    for patience, over in ((2, True), (3, False), (None, False)):
        found.patience = patience
        assert found.out_of_patience == over
    (tmp_path / "best-00003" / "weights.npz").write_bytes(b"torn")
    with pytest.warns(RuntimeWarning, match="best-00003 is damaged.*Using the last weights"):
        assert found.restore_best(model) is None


def test_a_resumed_run_may_start_or_stop_keeping_the_best_weights(tmp_path):
    def resume(monitor, epochs):
        checkpoint = EpochCheckpoint(tmp_path, monitor=monitor)
        checkpoint.restore(model)
        done, callbacks = len(checkpoint.records), [score, checkpoint]
        model.fit(data(), epochs=epochs, initial_epoch=done, callbacks=callbacks, verbose=0)
        return checkpoint

    values, model = [0.5, 0.9, 0.2, 0.1], noisy_model()
    score = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(val_AP=values[epoch])
    )
    resume("val_AP", 1)
    assert resume(None, 2).restore_best(model) is None
    assert resume("val_AP", 3).restore_best(model) == 1
    shutil.rmtree(tmp_path / "best-00001")
    with pytest.warns(RuntimeWarning, match="best epoch were not kept. Using the last weights"):
        assert resume("val_AP", 3).restore_best(model) is None
    assert resume("val_AP", 4).restore_best(model) == 4


@pytest.mark.parametrize("nothing", [0.0, -1.0])
def test_of_epochs_that_found_nothing_the_last_is_kept(tmp_path, nothing):
    """They still use up the patience."""
    checkpoint = EpochCheckpoint(tmp_path, monitor="val_AP", patience=3)
    for epoch in range(1, 5):
        assert not checkpoint.out_of_patience
        checkpoint.records.append({"epoch": epoch, "val_AP": nothing})
        assert checkpoint.best == epoch
    assert checkpoint.out_of_patience


@pytest.mark.parametrize("change", ["a layer more", "a wider layer", "another optimizer"])
def test_the_checkpoint_of_another_model_is_named(copy, change):
    layers = [keras.Input((3,)), keras.layers.Dense(2 if "wider" in change else 1)]
    other = keras.Sequential(layers + [keras.layers.Dense(1)] * ("more" in change))
    other.compile("sgd" if "optimizer" in change else "adam", "mse")
    with pytest.raises(ValueError, match="epoch-00003 is the state of another model or optimizer"):
        EpochCheckpoint(copy).restore(other)


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(copy, undisturbed, damage):
    weights = copy / "epoch-00003" / "state.npz"
    content = bytearray(weights.read_bytes())
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    checkpoint = EpochCheckpoint(copy)
    with pytest.warns(RuntimeWarning, match="epoch-00003 is damaged.*Using the checkpoint before"):
        checkpoint.find()
    assert [r["epoch"] for r in checkpoint.records] == [1, 2]
    assert left(copy) == ["damaged-epoch-00003", "epoch-00002"]
    if damage == "changed":
        model = noisy_model()
        records = train(model, copy).records
        _, expected, expected_records = undisturbed()
        for a, b in zip(expected, state(model), strict=True):
            np.testing.assert_array_equal(a, b)
        assert [r["loss"] for r in records] == [r["loss"] for r in expected_records]


def test_an_unfinished_checkpoint_is_ignored(copy, undisturbed):
    (copy / "unfinished").mkdir()
    (copy / "unfinished" / "state.npz").write_bytes(b"half a file")
    checkpoint = EpochCheckpoint(copy)
    checkpoint.find()
    assert checkpoint.records == undisturbed()[2]


def test_a_run_without_an_intact_checkpoint_does_not_restart_by_itself(copy):
    for folder, file in zip(copy.glob("epoch-*"), ("records", "sha256"), strict=True):
        (folder / f"{file}.json").write_text("[]")
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ValueError, match="No checkpoint.*--overwrite"),
    ):
        EpochCheckpoint(copy).find()


@pytest.fixture
def restored(copy):
    """A model and its checkpoint, about to end its fourth epoch."""
    model, checkpoint = noisy_model(), EpochCheckpoint(copy)
    checkpoint.restore(model)
    checkpoint.set_model(model)
    return model, checkpoint


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_leaves_the_last_checkpoint_and_says_what_to_do(restored, copy):
    _, checkpoint = restored
    message = r"epoch-00004 could not be written.*Free \d+ MB.*epoch-00003 is kept"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(OSError, match=message):
            checkpoint.on_epoch_end(3, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left(copy) == ["epoch-00002", "epoch-00003"] and len(checkpoint.records) == 3


def test_weights_that_are_not_finite_are_not_saved(restored, copy):
    """The loss may be finite, and the gradient not."""
    model, checkpoint = restored
    model.weights[0].assign(model.weights[0] * float("inf"))
    message = "weights.*at epoch-00004.*epoch-00003 is kept"
    with pytest.raises(FloatingPointError, match=message):
        checkpoint.on_epoch_end(3, {"loss": 1.0})
    assert left(copy) == ["epoch-00002", "epoch-00003"] and len(checkpoint.records) == 3


def test_only_the_chief_writes(tmp_path):
    checkpoint = train(noisy_model(), tmp_path / "absent", epochs=2, write=False, save_every=1)
    assert len(checkpoint.records) == 2 and not list(tmp_path.iterdir())


def kill_at_random(folder, kills, epochs):
    """Results of an undisturbed training, and of one killed `kills` times."""
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
    assert left(folder / "killed" / "checkpoints") == [
        f"epoch-{epochs - 1:05d}-step-0000004",
        f"epoch-{epochs:05d}",
    ]


@pytest.mark.slow
def test_a_deterministic_run_killed_twice_ends_with_the_same_bits(tmp_path):
    kill_at_random(tmp_path, kills=2, epochs=2)


@pytest.mark.slow
def test_a_deterministic_run_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    kill_at_random(tmp_path, kills=20, epochs=12)
