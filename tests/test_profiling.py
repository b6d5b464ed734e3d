"""Costs of detectors: counted products equal hand-derived formulas and TensorFlow's own counter."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from typer.testing import CliRunner

from keras_dyhead import profiling
from keras_dyhead.backbones import BACKBONES, ResNetBackbone
from keras_dyhead.cli import app
from keras_dyhead.detectors import DETECTORS
from keras_dyhead.layers import DyHeadBlock, DyHeadNeck, ModulatedDeformConv2D
from keras_dyhead.profiling import (
    count_multiply_adds,
    detection,
    markdown_table,
    num_steps,
    profile_detectors,
)

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
    gates = 7 * c  # a number for each of the 2 + 3 + 2 maps
    task = len(SIZES) * (c * c // 4 + c // 4 * 4 * c)

    block = DyHeadBlock(c, alignment)
    block.build([(None, *size, c) for size in SIZES])
    found = count_multiply_adds(
        lambda images: block([tf.zeros((1, *size, c)) for size in SIZES]), (32, 32)
    )
    assert found == (offsets + mid + low + high + resizes + means + gates + task, ())


def test_convolutions_and_products_are_counted_as_tensorflow_does():
    """Its counter takes multiplication and addition for two."""
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
    """torchvision states 1.814 GFLOPs for ResNet-18 at 224x224, its classifier included."""
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


def test_what_cannot_be_counted_is_named():
    def loops(images):
        return tf.while_loop(lambda x: x[0, 0] < 9, lambda x: (x @ x,), (tf.ones((4, 4)),))

    def unknown(images):
        return tf.boolean_mask(images[0, :, :, 0], images[0, :, 0, 0] > 0) @ tf.ones((32, 2))

    for function in (loops, unknown):
        count, uncounted = count_multiply_adds(function, (32, 32))
        assert count == 0 and len(uncounted) == 1
    assert tf.config.functions_run_eagerly() is False


def small(name, blocks):
    return DETECTORS[name](
        ResNetBackbone(18, base_channels=8),
        num_classes=3,
        neck=DyHeadNeck(blocks, 16) if blocks else None,
        pyramid=DETECTORS[name].default_pyramid(16),
        image_shape=(64, 64, 3),
    )


@pytest.mark.parametrize("name", DETECTORS)
def test_no_product_of_a_detector_escapes_the_count(name):
    """Nor of what comes after the raw outputs, as the second stage of Faster R-CNN.

    The interpolation of RoIAlign, whose size depends on the regions, is reported as uncounted.
    """
    model = small(name, 1)
    raw, uncounted = count_multiply_adds(model, (64, 64))
    assert raw > 0 and uncounted == ()
    count, uncounted = count_multiply_adds(detection(model), (64, 64))
    if name == "faster-rcnn":
        head = 7 * 7 * 16 * 1024 + 1024 * 1024 + 1024 * (3 + 1 + 4 * 3)
        assert count == raw + model.proposals.max_proposals * head
        assert len(uncounted) == 1 and "while" in uncounted[0]
    else:
        assert count == raw and uncounted == ()


def test_every_block_adds_the_same():
    """Blocks share one trace, but each is counted."""
    models = [small("atss", blocks) for blocks in range(3)]
    parameters = [model.count_params() for model in models]
    products = [count_multiply_adds(model, (64, 64))[0] for model in models]
    for first, second, third in (parameters, products):
        assert second - first == third - second > 0


def test_a_report_holds_what_was_asked_for(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", (ResNetBackbone, {"depth": 18, "base_channels": 8}))
    steps = []
    report = profile_detectors(
        ["atss"], [1], (64, 96), "tiny", 2, num_classes=3, channels=16, progress=steps.append
    )
    assert len(steps) == num_steps(["atss"], [1], 2) == 10
    without, with_one = json.loads(json.dumps(report))["costs"]
    assert [without["blocks"], with_one["blocks"]] == [0, 1]
    assert without["slowdown"] == 1 and without["milliseconds"] > 0
    assert with_one["slowdown"] == pytest.approx(
        with_one["milliseconds"] / without["milliseconds"], rel=0.1
    )
    table = markdown_table(report)
    assert "one image of 64x96" in table and "CPU cores" in table and "median of 2" in table
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ATSS")]
    assert [row[1] for row in rows] == ["0", "1"] and rows[0][-1].endswith("(1.00x) |")


def invoke(*arguments):
    return CliRunner().invoke(app, ["profile", *(str(argument) for argument in arguments)])


@pytest.fixture
def asked(monkeypatch):
    """Replaces the measurement by a made-up report, and keeps what it was asked for."""
    asked = []

    def fake(*arguments, **options):
        asked.append((arguments, options))
        cost = {"detector": "ATSS", "blocks": 6, "parameters": 38_900_000}
        cost |= {"multiply_adds": 112_340_000_000, "uncounted": ["x"], "milliseconds": 512.3}
        return {
            "machine": {"device": "2 CPU cores", "tensorflow": "2", "keras": "3"},
            "settings": {
                **{"image_size": [512, 512], "backbone": "resnet50", "num_classes": 80},
                **{"channels": 256, "dtype": "float32", "rounds": 3, "sampling": "gathers"},
            },
            "costs": [cost | {"slowdown": 1.5}],
        }

    monkeypatch.setattr(profiling, "profile_detectors", fake)
    return asked


ROW = "| ATSS | 6 | 38.9 M | > 112.3 | 512 ms (1.50x) |"


def test_the_command_fills_its_place_in_a_document(asked, tmp_path):
    out = tmp_path / "detectors.md"
    out.write_text("before\n<!-- profile -->\nold\n<!-- end of profile -->\nafter\n")
    for _ in range(2):
        result = invoke("--size", "64x96", "--blocks", "0,6", "--detector", "ATSS", "--out", out)
        assert result.exit_code == 0 and ROW in result.output
        text = out.read_text()
        assert text.startswith("before\n<!-- profile -->\n") and text.count(ROW) == 1
        assert text.endswith("|\n<!-- end of profile -->\nafter\n") and "old" not in text
    assert json.loads((tmp_path / "detectors.json").read_text())["costs"][0]["blocks"] == 6
    names, blocks, size, backbone, rounds = asked[0][0]
    assert (names, blocks, size, backbone, rounds) == (["atss"], [0, 6], (64, 96), "resnet50", 3)


def test_the_command_measures_all_detectors_and_writes_new_files(asked, tmp_path):
    assert invoke("--out", tmp_path / "new" / "costs.md").exit_code == 0
    assert asked[0][0][:3] == (list(DETECTORS), [0, 1, 2, 4, 6], (512, 512))
    assert (tmp_path / "new" / "costs.md").read_text().count(ROW) == 1
    assert (tmp_path / "new" / "costs.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--detector", "yolo"), "`detector` must be one of.*'yolo'"),
        (("--backbone", "vgg"), "`backbone` must be one of.*'vgg'"),
        (("--blocks", "0;6"), "--blocks must be whole numbers.*'0;6'"),
        (("--blocks=-1",), "at least 0.*-1"),
        (("--size", "1x2x3"), "HEIGHTxWIDTH.*1x2x3"),
        (("--size", "16"), "at least 32 px.*16"),
        (("--out", "x.txt"), "end in .md.*x.txt"),
    ],
)
def test_wrong_options_are_named(options, message):
    result = invoke(*options)
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    text = " ".join(result.output.replace("│", " ").split())
    assert np.all([part in text for part in message.split(".*")]), text


def test_a_document_without_a_place_is_not_overwritten_unasked(asked, tmp_path):
    out = tmp_path / "detectors.md"
    out.write_text("<!-- profile -->\nmine")
    result = invoke("--out", out)
    assert result.exit_code == 2 and "--overwrite" in result.output and not asked
    assert out.read_text() == "<!-- profile -->\nmine"
    assert invoke("--out", out, "--overwrite").exit_code == 0 and ROW in out.read_text()


def test_help_shows_examples():
    text = invoke("--help").output
    assert all(part in text for part in ("Examples", "--blocks", "--sparse", "resnext101", "<!--"))
