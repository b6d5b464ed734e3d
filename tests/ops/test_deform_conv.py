"""deform_conv2d against torchvision's outputs, a float64 loop and its documentation."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import FLOAT64, FORMS, relative_error, run, to_numpy, vjp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy_reference import deform_conv2d as loop_reference

from keras_dyhead.ops import chunks, deform_conv2d
from keras_dyhead.ops.sampling_form import sampling_form

DATA = Path(__file__).parents[1] / "data" / "op_deform_conv"
CASES = {case["id"]: case for case in json.loads((DATA / "cases.json").read_text())}
OPTIONS = ("stride", "padding", "dilation", "weight_groups", "offset_groups")
FIRST = {tuple(case[key] for key in OPTIONS): i for i, case in reversed(CASES.items())}
REPEATED = set(CASES).difference(FIRST.values())  # others have these options with other values


def channels_last(array):
    """NCHW, the layout of the oracle data, to NHWC."""
    return array.transpose(0, 2, 3, 1)


def cases_whole_and_in_chunks():
    """JAX compiles each: it takes every set of options once, and few of them in chunks."""
    jax = keras.backend.backend() == "jax"
    for case_id in CASES:
        for name, chunk_bytes in (("whole", None), ("chunks", 10_000)):
            slow = jax and (case_id in REPEATED or chunk_bytes and case_id not in ("00", "08"))
            marks = pytest.mark.slow if slow else ()
            yield pytest.param(case_id, chunk_bytes, id=f"{case_id}-{name}", marks=marks)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("case_id", "chunk_bytes"), cases_whole_and_in_chunks())
def test_agrees_with_torchvision_forward_and_in_all_gradients(
    case_id, form, chunk_bytes, monkeypatch
):
    if chunk_bytes:
        monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", chunk_bytes)
    case, data = CASES[case_id], np.load(DATA / f"{case_id}.npz")
    arrays = [channels_last(data[name]) for name in ("input", "offset", "mask")]
    arrays.append(data["weight"].transpose(2, 3, 1, 0))
    # For a tap exactly on -1, torchvision's CPU op has a one-sided derivative; the published CUDA
    # kernel and mmcv have none: we follow the kernel that the published weights were trained with.
    grad_offset = "grad_offset_mmcv" if "grad_offset_mmcv" in data else "grad_offset"
    expected = [channels_last(data[name]) for name in ("grad_input", grad_offset, "grad_mask")]
    expected.append(data["grad_weight"].transpose(2, 3, 1, 0))
    if "bias" in data:
        arrays.append(data["bias"])
        expected.append(data["grad_bias"])

    def convolve(inputs, offsets, mask, kernel, bias=None):
        return deform_conv2d(
            inputs,
            offsets,
            mask,
            kernel,
            bias,
            strides=case["stride"],
            padding=case["padding"],
            dilation_rate=case["dilation"],
            groups=case["weight_groups"],
            offset_groups=case["offset_groups"],
        )

    with sampling_form(form):
        output, gradients = vjp(convolve, arrays, channels_last(data["grad_output"]))
    assert relative_error(output, channels_last(data["output"])) <= 1e-5
    for found, wanted in zip(gradients, expected, strict=True):
        assert relative_error(found, wanted) <= 1e-4


@st.composite
def problems(draw):
    """Small convolutions with offsets of every kind: huge, NaN, infinite, exactly on borders.

    Values are small integers and offsets multiples of 1/16, so float32 is exact in any order.
    """
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    kernel = draw(st.sampled_from([1, 2, 3]))
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    reach = dilation * (kernel - 1) + 1
    least = max(0, -(-(reach - min(height, width)) // 2))
    padding = draw(st.integers(least, least + 2))
    rows, columns = ((n + 2 * padding - reach) // stride + 1 for n in (height, width))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, channels, filters = (
        draw(st.integers(1, 2)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    shape = (batch, rows, columns, 2 * kernel * kernel)
    offsets = np.round(16 * rng.normal(0, draw(st.sampled_from([0.0, 0.3, 2.0, 50.0])), shape)) / 16
    kinds = draw(
        st.sets(st.sampled_from(["integer", "half", "border", "edge", "huge", "nan", "infinite"]))
    )
    for kind in sorted(kinds):
        chosen = rng.random(shape) < 0.3
        # The undisplaced position of every tap, to put some exactly on -1, 0, size - 1 and size.
        taps = np.arange(kernel) * dilation - padding
        y = np.arange(rows)[:, None, None, None] * stride + taps[:, None]
        x = np.arange(columns)[None, :, None, None] * stride + taps[None, :]
        base = np.stack(np.broadcast_arrays(y, x), axis=-1).reshape(rows, columns, -1)
        sizes = np.tile([height, width], kernel * kernel)
        border = np.choose(rng.integers(0, 4, shape), [-1 + 0 * sizes, 0 * sizes, sizes - 1, sizes])
        values = {
            "integer": np.round(offsets),
            "half": np.round(offsets) + 0.5,
            "border": border - base,
            "edge": border - base + rng.choice([-1 / 16, 1 / 16], shape),
            "huge": rng.choice([-3e38, -1e10, 1e6, 3e9, 3e38], shape),
            "nan": np.full(shape, np.nan),
            "infinite": rng.choice([-np.inf, np.inf], shape),
        }[kind]
        offsets = np.where(chosen, values, offsets)
    arrays = (
        rng.integers(-3, 4, (batch, height, width, channels)),
        offsets,
        rng.integers(-3, 4, (*shape[:3], kernel * kernel)),
        rng.integers(-3, 4, (kernel, kernel, channels, filters)),
    )
    cotangent = rng.integers(-3, 4, (batch, rows, columns, filters)).astype("float32")
    return [a.astype("float32") for a in arrays], cotangent, (stride, padding, dilation)


# JAX compiles each example.
@settings(
    max_examples=10 if keras.backend.backend() == "jax" else 100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(problems(), st.sampled_from(FORMS))
def test_equals_a_float64_loop_for_offsets_of_every_kind(problem, form):
    arrays, cotangent, (stride, padding, dilation) = problem

    def convolve(*tensors):
        return deform_conv2d(*tensors, strides=stride, padding=padding, dilation_rate=dilation)

    with sampling_form(form):
        output, gradients = vjp(convolve, arrays, cotangent)
    expected = loop_reference(*arrays, stride, padding, dilation, grad=cotangent)
    names = ("output", "inputs", "offsets", "mask", "kernel")
    for name, found, wanted in zip(names, (output, *gradients), expected, strict=True):
        np.testing.assert_array_equal(to_numpy(found), wanted, err_msg=name)


@pytest.mark.tensorflow
@pytest.mark.parametrize("form", FORMS)
def test_unknown_sizes_give_the_same_in_several_chunks(form, monkeypatch):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shapes = [(2, 9, 7, 3), (2, 9, 7, 18), (2, 9, 7, 9), (3, 3, 3, 4)]
    arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
    cotangent = rng.normal(size=(2, 9, 7, 4)).astype("float32")
    expected = vjp(deform_conv2d, arrays, cotangent)
    monkeypatch.setitem(chunks.CHUNK_BYTES, "cpu", 2_000)
    unknown = [tf.TensorSpec((None, None, None, shape[-1])) for shape in shapes[:3]]

    @tf.function(input_signature=[*unknown, tf.TensorSpec(shapes[3])])
    def step(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            outputs = deform_conv2d(*tensors)
        return outputs, tape.gradient(outputs, tensors, cotangent)

    with sampling_form(form):
        found = step(*map(tf.constant, arrays))
    for a, b in zip([found[0], *found[1]], [expected[0], *expected[1]], strict=True):
        assert relative_error(a, b) <= 1e-5


def test_zero_offsets_and_no_mask_give_the_ordinary_convolution():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 9, 6, 4)).astype("float32")
    kernel = rng.normal(size=(3, 3, 2, 6)).astype("float32")
    offsets = np.zeros((2, 5, 3, 18), "float32")
    found = run(
        lambda x, offsets, kernel: deform_conv2d(x, offsets, None, kernel, strides=2, groups=2),
        *(x, offsets, kernel),
    )
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = run(lambda x, kernel: keras.ops.conv(x, kernel, strides=2), padded, kernel)
    assert relative_error(found, expected) <= 1e-5


@FLOAT64
def test_float64_inputs_are_sampled_in_float64():
    rng = np.random.default_rng(1)
    arrays = [
        rng.normal(size=shape)
        for shape in ((1, 5, 6, 2), (1, 5, 6, 18), (1, 5, 6, 9), (3, 3, 2, 3))
    ]
    single = deform_conv2d(*(a.astype("float32") for a in arrays))
    double = deform_conv2d(*(keras.ops.convert_to_tensor(a, "float64") for a in arrays))
    assert relative_error(double, loop_reference(*arrays)) <= 1e-12
    assert 1e-9 < relative_error(single, double) <= 1e-5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_features_keep_float32_coordinates(dtype):
    """bfloat16 cannot represent 200.4: coordinates in the dtype of features would be wrong."""
    ramp = np.linspace(0, 1, 256, dtype="float32").reshape(1, 1, 256, 1)
    offsets = np.full((1, 1, 256, 2), 0.4, "float32") * [0, 1]
    kernel = np.ones((1, 1, 1, 1), "float32")

    def convolve(ramp, offsets, kernel):
        x, k = (keras.ops.cast(a, dtype) for a in (ramp, kernel))
        found = deform_conv2d(x, offsets, None, k, padding=0)
        assert keras.backend.standardize_dtype(found.dtype) == dtype
        return found

    found = run(convolve, ramp, offsets.astype("float32"), kernel)[0, 0, :-1, 0]
    expected = ramp[0, 0, :-1, 0] + 0.4 / 255
    assert np.abs(found - expected).max() <= 2 * 2.0**-8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": (5, 6, 4)}, "`inputs` must have 4 dimensions"),
        ({"offsets": (1, 5, 6, 17)}, "offsets.shape=\\(1, 5, 6, 17\\)"),
        ({"offsets": (1, 4, 6, 18)}, "size of the output, \\(5, 6\\)"),
        ({"mask": (1, 5, 6, 18)}, "mask.shape=\\(1, 5, 6, 18\\)"),
        ({"kernel": (3, 3, 3, 4)}, "channels=4"),
        ({"kernel": (3, 3, 4, 0)}, "empty axis.*kernel.shape=\\(3, 3, 4, 0\\)"),
        ({"bias": (3,)}, "`bias` must have shape \\(4,\\)"),
        ({"strides": (1, 2, 3)}, "strides=\\(1, 2, 3\\)"),
        ({"padding": "full"}, "padding='full'"),
        ({"padding": (0, 0), "inputs": (1, 1, 6, 4)}, "as large as the kernel.*\\(1, 1, 6, 4\\)"),
        ({"padding": (0, 0), "inputs": (1, 2, 6, 4)}, "as large as the kernel.*\\(1, 2, 6, 4\\)"),
        ({"offset_groups": 3}, "offset_groups=3"),
        ({"offset_groups": 0}, "offset_groups=0"),
        ({"groups": 0}, "groups=0"),
        ({"groups": -2}, "groups=-2"),
        ({"strides": 0}, "strides=0"),
        ({"strides": (1, -1)}, "strides=\\(1, -1\\)"),
        ({"dilation_rate": 0}, "dilation_rate=0"),
        ({"padding": -1}, "padding=-1"),
        ({"offsets": (2, 5, 6, 18)}, "batch size.*offsets.shape=\\(2, 5, 6, 18\\)"),
        ({"mask": (2, 5, 6, 9)}, "batch size.*mask.shape=\\(2, 5, 6, 9\\)"),
        ({"offsets": (5, 6, 18)}, "offsets.shape=\\(5, 6, 18\\)"),
    ],
)
def test_errors_show_the_received_value(change, message):
    arguments = {
        "inputs": (1, 5, 6, 4),
        "offsets": (1, 5, 6, 18),
        "mask": (1, 5, 6, 9),
        "kernel": (3, 3, 4, 4),
        "bias": (4,),
    }
    arguments = {**arguments, **change}
    arguments = {
        name: np.zeros(value, "float32")
        if name in ("inputs", "offsets", "mask", "kernel", "bias")
        else value
        for name, value in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        deform_conv2d(**arguments)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integers_are_sampled_in_float32(dtype):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2 if dtype == "bool" else 255, (1, 5, 6, 4)).astype(dtype)
    # Sums of quarters are exact, in whatever order a compiler adds them.
    shapes = (1, 5, 6, 18), (1, 5, 6, 9), (3, 3, 4, 6)
    others = [(rng.integers(0, 4, shape) / 4).astype("float32") for shape in shapes]
    found = run(deform_conv2d, pixels, *others)
    np.testing.assert_array_equal(found, run(deform_conv2d, pixels.astype("float32"), *others))


def test_numpy_ints_are_ints():
    arrays = [np.zeros(s, "float32") for s in ((1, 5, 6, 4), (1, 3, 3, 18), (3, 3, 2, 6))]
    two = np.int64(2)

    def convolve(x, offsets, kernel):
        return deform_conv2d(x, offsets, None, kernel, strides=two, groups=two)

    assert run(convolve, *arrays).shape == (1, 3, 3, 6)


def test_lists_and_numpy_pairs_are_accepted():
    shapes = (1, 5, 6, 2), (1, 5, 6, 18), (1, 5, 6, 9), (3, 3, 2, 3), (3,)
    arrays = [np.ones(shape, "float32") for shape in shapes]
    lists = [x.tolist() for x in arrays]
    found = run(lambda: deform_conv2d(*lists, padding=np.array([1, 1])))
    np.testing.assert_allclose(found, run(deform_conv2d, *arrays), rtol=1e-6)


def test_an_empty_batch_has_empty_outputs_and_gradients_of_zero():
    shapes = [(0, 5, 4, 6), (0, 5, 4, 18), (0, 5, 4, 9), (3, 3, 6, 2)]
    arrays = [np.ones(shape, "float32") for shape in shapes]
    outputs, gradients = vjp(deform_conv2d, arrays, np.ones((0, 5, 4, 2), "float32"))
    assert outputs.shape == (0, 5, 4, 2)
    assert [g.shape for g in gradients] == shapes
    assert not gradients[-1].any()
