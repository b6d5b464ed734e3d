"""Training stops at the first NaN; averaged weights are swapped in and out."""

import functools

import keras
import numpy as np
import pytest
from training.noisy import STEPS, data, noisy_model

from keras_dyhead.training.callbacks import FiniteLoss
from keras_dyhead.training.checkpoint import EpochCheckpoint, averaged_weights


def test_a_nan_stops_training_at_its_step_and_names_the_images(tmp_path):
    model, asked = noisy_model(), []

    def images_of(epoch, step):
        asked.append((epoch, step))
        return "the images 7 (a.jpg)"

    checkpoint = EpochCheckpoint(tmp_path)
    finite = FiniteLoss(images_of, checkpoint)
    fit = functools.partial(model.fit, callbacks=[finite, checkpoint], verbose=0)
    fit(data(), epochs=1)
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 3, on the images 7 \(a.jpg\)"):
        fit(data(nan_in_row=5), epochs=5, initial_epoch=1)
    assert asked == [(1, 2)]
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-00001"]


def test_skipped_steps_are_not_nan_and_the_loss_scale_is_restored(tmp_path):
    model = noisy_model(loss_scaling=True)
    checkpoint = EpochCheckpoint(tmp_path)
    finite = FiniteLoss(lambda epoch, step: "none", checkpoint)
    model.fit(data(), epochs=1, callbacks=[finite, checkpoint], verbose=0)
    assert int(model.optimizer.iterations) < STEPS
    scale = float(model.optimizer.dynamic_scale)
    assert scale < 2.0**127
    restored = noisy_model(loss_scaling=True)
    EpochCheckpoint(tmp_path).restore(restored)
    assert float(restored.optimizer.dynamic_scale) == scale


def test_averaged_weights_are_swapped_in_and_the_weights_restored_exactly():
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
