"""Costs of detectors: counts equal hand-derived formulas and TensorFlow's counter."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from benchmarks.detectors import __main__ as program
from benchmarks.detectors import comparison
from benchmarks.detectors.implementations import build, detection, keras_detector
from benchmarks.detectors.multiply_adds import count_multiply_adds
from benchmarks.detectors.workload import Workload
from keras_dyhead.backbones import BACKBONES, ResNetBackbone
from keras_dyhead.detectors import DETECTORS
from keras_dyhead.layers import DyHeadBlock, DyHeadNeck
from keras_dyhead.layers.modulated_deform_conv2d import ModulatedDeformConv2D

SIZES = ((8, 12), (4, 6), (2, 3))


def resize_cost(size, new, channels):
    """Two products with interpolation matrices, the rows first."""
    return channels * new[0] * (size[0] * size[1] + new[1] * size[1])


@pytest.mark.parametrize("alignment", ["paper", "published"])
def test_a_dyhead_block_has_the_products_of_the_formulas(alignment):
    c, pixels = 32, [height * width for height, width in SIZES]
    pairs = list(zip(SIZES, SIZES[1:], strict=False))
    offsets = sum(pixels) * 9 * c * 27
    mid, low = sum(pixels) * 9 * c * c, sum(pixels[1:]) * 9 * c * c
    high = sum(pixels[:-1] if alignment == "paper" else pixels[1:]) * 9 * c * c
    resizes = sum(resize_cost(coarse, fine, c) for fine, coarse in pairs)
    means = 0 if alignment == "paper" else sum(pixels[1:]) * c
    gates = 7 * c  # one number for each of the 2 + 3 + 2 maps
    task = len(SIZES) * (c * c // 4 + c // 4 * 4 * c)

    block = DyHeadBlock(c, alignment)
    block.build([(None, *size, c) for size in SIZES])
    found = count_multiply_adds(
        lambda images: block([tf.zeros((1, *size, c)) for size in SIZES]), (32, 32)
    )
    assert found == (offsets + mid + low + high + resizes + means + gates + task, ())


def test_convolutions_and_products_are_counted_as_tensorflow_does():
    """TensorFlow counts a multiplication and an addition as two."""
    inputs = keras.Input((40, 56, 3))
    maps = ResNetBackbone(18, base_channels=8, image_shape=(40, 56, 3))(inputs)["P5"]
    model = keras.Model(inputs, keras.layers.Dense(7)(keras.layers.Flatten()(maps)))
    found, uncounted = count_multiply_adds(model, (40, 56))
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((1, 40, 56, 3))).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options = tf.compat.v1.profiler.ProfileOptionBuilder(options).with_empty_output().build()
    profile = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    counted = {}
    while profile.children:
        (profile,) = profile.children
        counted[profile.name] = profile.float_ops
    assert uncounted == () and 2 * found == counted["Conv2D"] + counted["MatMul"]


def test_the_count_of_resnet_is_the_published_one():
    """torchvision states 1.814 GFLOPs for ResNet-18 at 224x224, including the classifier."""
    count, _ = count_multiply_adds(ResNetBackbone(18, image_shape=(224, 224, 3)), (224, 224))
    assert round((count + 512 * 1000) / 1e9, 3) == 1.814


def test_a_grouped_deformable_convolution_is_counted_as_an_ordinary_one_with_offsets():
    layer = ModulatedDeformConv2D(24, strides=2, groups=4, use_bias=False)
    layer.build((None, None, None, 16))
    found = count_multiply_adds(lambda images: layer(tf.zeros((1, 10, 14, 16))), (32, 32))
    assert found == (5 * 7 * 9 * (16 // 4 * 24 + 16 * 27), ())


@pytest.mark.parametrize(
    "equation, shapes, expected",
    [("abc,cd->abd", [(2, 3, 5), (5, 7)], 210), ("abc,adc->abd", [(2, 3, 5), (2, 7, 5)], 210)],
)
def test_sums_over_indices_and_transposed_products_are_counted(equation, shapes, expected):
    a, b = (tf.zeros(shape) for shape in shapes)
    assert count_multiply_adds(lambda _: tf.einsum(equation, a, b), (32, 32))[0] == expected
    a, b = tf.zeros((2, 5, 3)), tf.zeros((2, 5, 7))
    product = count_multiply_adds(lambda _: tf.matmul(a, b, transpose_a=True), (32, 32))
    assert product[0] == expected


def test_uncounted_operations_are_named():
    def loops(images):
        return tf.while_loop(lambda x: x[0, 0] < 9, lambda x: (x @ x,), (tf.ones((4, 4)),))

    def unknown(images):
        return tf.boolean_mask(images[0, :, :, 0], images[0, :, 0, 0] > 0) @ tf.ones((32, 2))

    for function in (loops, unknown):
        count, uncounted = count_multiply_adds(function, (32, 32))
        assert count == 0 and len(uncounted) == 1
    assert tf.config.functions_run_eagerly() is False


# RetinaNet, FCOS and RepPoints have no product that ATSS or the deformable convolution lacks.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("atss", "faster-rcnn") else pytest.mark.slow)
        for name in DETECTORS
    ],
)
def test_every_product_of_a_detector_is_counted(name):
    """Nor of what comes after the raw outputs, as the second stage of Faster R-CNN.

    The interpolation of RoIAlign, whose size depends on the regions, is reported as uncounted.
    """
    model = DETECTORS[name](
        ResNetBackbone(18, base_channels=8),
        num_classes=3,
        neck=DyHeadNeck(1, 16),
        image_shape=(64, 64, 3),
    )
    count, uncounted = count_multiply_adds(detection(model), (64, 64))
    if name != "faster-rcnn":
        assert count > 0 and uncounted == ()
        return
    head = 7 * 7 * 16 * 1024 + 1024 * 1024 + 1024 * (3 + 1 + 4 * 3)
    raw = count_multiply_adds(model, (64, 64))
    assert raw == (count - model.proposals.max_proposals * head, ())
    assert len(uncounted) == 1 and "while" in uncounted[0]


@pytest.mark.slow
def test_every_block_adds_the_same():
    """Blocks share one trace, but each is counted."""
    pyramid = {f"P{level}": tf.zeros((1, 64 >> level, 64 >> level, 16)) for level in (2, 3, 4)}
    products, parameters = [], []
    for blocks in (1, 2):
        neck = DyHeadNeck(blocks, 16)
        products.append(count_multiply_adds(lambda _, neck=neck: neck(pyramid), (32, 32))[0])
        parameters.append(neck.count_params())
    for first, second in (parameters, products):
        assert second == 2 * first > 0


@pytest.fixture
def workload(monkeypatch):
    """Small images and a small backbone."""
    monkeypatch.setitem(BACKBONES, "tiny", (ResNetBackbone, {"depth": 18, "base_channels": 8}))
    return Workload(64, 96, "tiny", batch=2, channels=16, num_classes=3)


def test_boxes_lie_inside_their_images(workload):
    targets = workload.targets()
    assert targets["boxes"].shape == (2, 8, 4) and targets["labels"].shape == (2, 8)
    left, top, right, bottom = np.moveaxis(targets["boxes"], -1, 0)
    assert (left >= 0).all() and (left < right).all() and (right <= 96).all()
    assert (top >= 0).all() and (top < bottom).all() and (bottom <= 64).all()


def test_a_detector_predicts_and_trains(workload):
    predict, step, version = keras_detector(workload, name="retinanet", blocks=0, head_layers=1)
    boxes, *_ = predict()
    assert boxes.shape[::2] == (2, 4) and "TensorFlow" in version
    first, second = step(), step()
    assert np.isfinite(first).all() and not np.array_equal(first, second)
    assert build(workload, "fcos", 0, head_layers=4).head_layers == 4


SECONDS = {"torchvision": 0.8, "without, as torchvision": 0.4, "0": 0.2, "6": 0.5}


@pytest.fixture
def measured(monkeypatch):
    """Replaces the processes by fixed figures; every round is twice as slow as the last."""

    class Measurement:
        def __init__(self, workload, implementation, repeats, options):
            if "torch" in implementation:
                row = "torchvision"
            else:
                row = "without, as torchvision" if "head_layers" in options else options["blocks"]
            self.seconds = SECONDS[str(row)]

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def take(self):
            found = {"forward_s": self.seconds, "step_s": 3 * self.seconds, "peak_mib": 100.0}
            self.seconds *= 2
            return found | {"version": "TensorFlow 2"}

    monkeypatch.setattr(comparison, "Measurement", Measurement)
    counted = {"parameters": 38_900_000, "multiply_adds": 112_340_000_000, "uncounted": ["x"]}
    monkeypatch.setattr(comparison, "_count", lambda *_: counted)


def test_a_table_compares_with_torchvision_and_without_dyhead(measured):
    report = comparison.compare(Workload(), ["fcos", "atss"], [6], rounds=3)
    rows = [line for line in comparison.markdown(json.loads(json.dumps(report))).splitlines()]
    rows = [line.split(" | ")[1:] for line in rows if line.startswith(("| fcos", "| atss"))]
    assert rows == [
        ["torchvision", "", "", "1600 ms", "4800 ms", "100 MiB |"],
        ["without, as torchvision", "38.9 M", "> 112.3", "800 ms (2.00x)", "2400 ms (2.00x)"]
        + ["100 MiB |"],
        *[
            ["0", "38.9 M", "> 112.3", "400 ms (1.00x)", "1200 ms (1.00x)", "100 MiB |"],
            ["6", "38.9 M", "> 112.3", "1000 ms (2.50x)", "3000 ms (2.50x)", "100 MiB |"],
        ]
        * 2,
    ]


def test_the_program_fills_its_section_of_a_page(measured, tmp_path):
    page, out = tmp_path / "detectors.md", tmp_path / "costs.json"
    page.write_text("before\n<!-- costs -->\nold\n<!-- end of costs -->\nafter\n")
    arguments = ["--detectors", "atss", "--blocks", "6", "--page", page, "--out", out]
    result = CliRunner().invoke(program.app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    assert sorted(tmp_path.iterdir()) == [out, page]  # no unfinished lines
    table = comparison.markdown(json.loads(out.read_text()))
    assert page.read_text() == f"before\n<!-- costs -->\n{table}<!-- end of costs -->\nafter\n"


def test_an_interrupted_comparison_continues(measured, tmp_path, monkeypatch):
    """Measured detectors are not measured again."""
    lines, told = tmp_path / "costs.jsonl", []
    comparison.compare(Workload(), ["atss"], [6], unfinished=lines)
    report = comparison.compare(Workload(), ["atss", "fcos"], [6], 5, True, lines, told.append)
    assert {row["detector"] for row in report["costs"]} == {"atss", "fcos"}
    assert told and not any("atss" in text for text in told)
    monkeypatch.setattr(comparison, "Measurement", None)
    again = comparison.compare(Workload(), ["atss", "fcos"], [6], unfinished=lines)
    assert again == json.loads(json.dumps(report))


@pytest.mark.parametrize(
    "options", [("--detectors", "yolo"), ("--backbone", "vgg"), ("--size", "1x2x3"), ("--size", 16)]
)
def test_wrong_options_are_named(options):
    result = CliRunner().invoke(program.app, [*map(str, options)])
    assert result.exit_code == 2 and str(options[1]) in result.output
