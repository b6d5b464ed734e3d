"""A small training that depends on all kinds of state: seeds, averages, schedule."""

import types

import keras
import numpy as np
import tensorflow as tf

from keras_dyhead.training.callbacks import DataPosition
from keras_dyhead.training.checkpoint import EpochCheckpoint

STEPS = 4


def noisy_model(loss_scaling=False):
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
    """Eight rows in four steps; the first iteration may start later, as in `load_coco`."""
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


def train(model, folder, epochs=3, also=(), **options):
    """Trains, and resumes from checkpoints in `folder` as `Training` does."""
    checkpoint = EpochCheckpoint(folder, **options)
    checkpoint.restore(model)
    first = data(checkpoint.steps)
    callbacks = [DataPosition(first, checkpoint), checkpoint, *also]
    start = len(checkpoint.records)
    model.fit(first, epochs=epochs, initial_epoch=start, callbacks=callbacks, verbose=0)
    return checkpoint


def state(model):
    return [v.numpy() for v in [*model.weights, *model.optimizer.variables]]
