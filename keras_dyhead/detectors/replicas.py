"""What Keras leaves to do under `tf.distribute` strategies."""

import keras


def sum_over_replicas(value):
    """Sums a scalar over the replicas of a running `tf.distribute` strategy, if there is one."""
    if num_replicas() > 1:
        import tensorflow as tf

        return tf.distribute.get_replica_context().all_reduce("sum", value)
    return value


def num_replicas() -> int:
    """Returns how many replicas share a batch."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_gradients_first(optimizer) -> None:
    """Has an optimizer sum the gradients of all replicas before it does anything else with them.

    Keras clips the gradient of each replica, and looks for infinities in that of the first one,
    before it sums them, so that a step would depend on the number of replicas. The optimizer, which
    may be a `LossScaleOptimizer`, is changed in place, once.
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


def logs_to_average(logs):
    """Returns what a step logs in the form that Keras can average over processes.

    It averages over the first axis, too, which scalars do not have.
    """
    if keras.backend.backend() != "tensorflow":
        return logs
    import tensorflow as tf

    if not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return logs
    return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}
