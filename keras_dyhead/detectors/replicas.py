"""What Keras lacks for training under `tf.distribute` strategies."""

import keras

from keras_dyhead.ops.arguments import for_any_batch


def sum_over_replicas(value):
    """Sums a scalar over the replicas of a `tf.distribute` strategy, if there is one."""
    if num_replicas() > 1:
        import tensorflow as tf

        return tf.distribute.get_replica_context().all_reduce("sum", value)
    return value


def num_replicas() -> int:
    """Returns the number of replicas that share a batch."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


class MeanOfShares(keras.metrics.Mean):
    """Averages a loss over images. Each replica adds its share of the loss of the whole batch.

    As in Keras, a share arrives multiplied by the number of replicas, and weighted with the number
    of images on this replica. Keras' own mean of these is wrong if the numbers of images differ.
    """

    def update_state(self, values, sample_weight=None):
        if num_replicas() > 1:
            here = keras.ops.cast(sample_weight, "float32")
            values *= sum_over_replicas(here) / (here * num_replicas())
        return super().update_state(values, sample_weight)


def sum_gradients_first(optimizer) -> None:
    """Makes an optimizer sum the gradients of all replicas before any other operation.

    Keras clips the gradients of each replica and checks those of the first for infinities before it
    sums them, so a step would depend on the number of replicas. This changes the optimizer, which
    may be a `LossScaleOptimizer`, in place. Further calls have no effect.
    """
    if "apply" in vars(optimizer):
        return
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    apply, sum_gradients = optimizer.apply, inner._all_reduce_sum_gradients

    def apply_sum(grads, trainable_variables):
        variables = list(trainable_variables)
        if num_replicas() > 1:
            grads = [grad for grad, _ in sum_gradients(zip(grads, variables, strict=True))]
        return apply(grads, variables)

    optimizer.apply = apply_sum
    inner._all_reduce_sum_gradients = lambda grads_and_variables: grads_and_variables


def with_an_image(predict):
    """Makes a compiled prediction work on a replica that has no image of a small last batch."""
    predict_images = for_any_batch(lambda images: predict((images,)))
    return lambda data: predict_images(keras.utils.unpack_x_y_sample_weight(data)[0])


def logs_to_average(logs):
    """Returns the logs of a step in a form that Keras can average over processes.

    Keras averages over the first axis, which scalars do not have.
    """
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}
