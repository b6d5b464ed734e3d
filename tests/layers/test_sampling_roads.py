"""Which operations a neck uses for sampling, in each way of running it with Keras."""

import keras
import numpy as np
import pytest

from keras_dyhead.layers import DyHeadBlock, DyHeadNeck
from keras_dyhead.layers.spatial_attention import MULTIPLY_FIRST

pytestmark = pytest.mark.tensorflow
SIZE = 8  # of one level, which is sampled like several and traced sooner


def model_of(dtype="float32", **arguments):
    inputs = [keras.Input((SIZE, SIZE, 16))]
    outputs = DyHeadNeck(1, 16, alignment="published", dtype=dtype)(inputs)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.SGD(0.01), loss=["mse"], **arguments)
    return model


def maps():
    return [np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 16)).astype("float32")]


def operations(path):
    """The types of all operations of a SavedModel."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graphs = SavedModel.FromString((path / "saved_model.pb").read_bytes()).meta_graphs
    return {
        node.op
        for graph in graphs
        for function in graph.graph_def.library.function
        for node in function.node_def
    }


def walk(model, roads, forms):
    """Runs a model in some of Keras' ways and returns the forms used in each."""
    x, met = maps(), {}
    calls = {
        "call": lambda: model(x),
        "predict": lambda: model.predict(x, verbose=0),
        "evaluate": lambda: model.evaluate(x, x, batch_size=1, verbose=0),
        "fit": lambda: model.fit(x, x, batch_size=1, verbose=0),
    }
    for road in roads:
        forms()
        calls[road]()
        met[road] = forms()
    return met


ROADS = ("call", "predict", "evaluate", "fit")


@pytest.mark.parametrize("arguments", [{"steps_per_execution": 2}, {"run_eagerly": True}])
def test_keras_on_cpus_multiplies_sparse_matrices(arguments, forms):
    """Even if Keras decides whether XLA compiles the steps."""
    model = model_of(**arguments)
    assert model.jit_compile is False
    met = walk(model, ROADS[:1] + ROADS[:0:-1], forms)
    assert met["call"] == met["fit"] == {"sparse"}
    # The parts shared with `call` and `predict` may have been traced already.
    assert set().union(*met.values()) == {"sparse"}


@pytest.mark.parametrize(
    "roads", [ROADS[1:2], pytest.param(ROADS[2:], marks=pytest.mark.slow)], ids=" ".join
)
def test_keras_under_xla_gathers(roads, forms):
    model = model_of(jit_compile=True)
    assert model.jit_compile is True
    assert walk(model, ["call"], forms) == {"call": {"sparse"}}  # not compiled
    met = walk(model, roads, forms)
    assert set().union(*met.values()) == {"gather"}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_gathers(policy, forms):
    model = model_of(policy)
    assert walk(model, ROADS[:2], forms) == {"call": {"gather"}, "predict": {"gather"}}


@pytest.mark.parametrize(("channels", "sizes"), [(16, (8, 4)), (MULTIPLY_FIRST, (8,))])
def test_a_graph_for_any_size_accepts_an_empty_batch(channels, sizes):
    """TensorFlow's sparse products end the process if they have no lines."""
    import tensorflow as tf

    block = DyHeadBlock(channels, alignment="paper")
    block([np.zeros((1, n, n, channels), "float32") for n in sizes])

    @tf.function(input_signature=[[tf.TensorSpec((None, None, None, channels))] * len(sizes)])
    def step(maps):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            outputs = block(maps)
        return outputs, tape.gradient(outputs, maps)

    for count in (1, 0):
        maps = [np.zeros((count, n, n, channels), "float32") for n in sizes]
        for found in step(maps):
            assert [x.shape for x in found] == [x.shape for x in maps]


@pytest.fixture(scope="module")
def predicted():
    """A model after `predict`, which has left traces, and its predictions."""
    keras.utils.set_random_seed(0)
    model = model_of()
    for weight in model.weights:
        weight.assign(np.random.default_rng(0).normal(0, 0.2, weight.shape))
    return model, model.predict(maps(), verbose=0)


def check(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_saved_model_of_keras_gathers_and_leaves_the_model_alone(predicted, forms, tmp_path):
    """It may become a LiteRT file."""
    import tensorflow as tf

    model, expected = predicted
    model.export(tmp_path, verbose=False)
    assert "SparseMatrixMatMul" not in operations(tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    check(loaded.serve(maps()), expected)
    assert tf.lite.TFLiteConverter.from_saved_model(str(tmp_path)).convert()
    assert "sparse" not in forms()
    tf.function(model)(maps())
    assert "gather" not in forms()


def test_a_saved_model_of_tensorflow_gathers(predicted, forms, tmp_path):
    import tensorflow as tf

    module = tf.Module()
    module.variables_of_model = [variable.value for variable in predicted[0].variables]
    signature = [[tf.TensorSpec((None, SIZE, SIZE, 16))]]
    module.serve = tf.function(lambda x: predicted[0](x), input_signature=signature)
    tf.saved_model.save(module, str(tmp_path))
    assert "SparseMatrixMatMul" not in operations(tmp_path) and "sparse" not in forms()


def test_keras_exports_to_onnx(predicted, forms, tmp_path):
    import onnxruntime

    model, expected = predicted
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    assert "sparse" not in forms()
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (place,) = session.get_inputs()
    check(session.run(None, {place.name: maps()[0]})[0], expected)


def test_keras_exports_to_litert(predicted, forms, tmp_path):
    import tensorflow as tf

    model, expected = predicted
    path = tmp_path / "model.tflite"
    signature = [[keras.InputSpec(shape=(2, SIZE, SIZE, 16), dtype="float32")]]
    model.export(path, format="litert", input_signature=signature, verbose=False)
    assert "sparse" not in forms()
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    (place,) = interpreter.get_input_details()
    interpreter.set_tensor(place["index"], maps()[0])
    interpreter.invoke()
    (place,) = interpreter.get_output_details()
    check(interpreter.get_tensor(place["index"]), expected)
