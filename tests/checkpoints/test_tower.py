"""Published towers load completely, compute what Microsoft's code computes, or are refused."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from backend import as_function, relative_error, run, slow_on_jax, vjp
from published_weights import microsoft_tower, openmmlab_tower

from keras_dyhead.checkpoints import load_tower
from keras_dyhead.checkpoints.tower import MICROSOFT_BLOCK
from keras_dyhead.checkpoints.transfer import Part
from keras_dyhead.layers import DyHeadNeck
from keras_dyhead.layers.affine_maps import AffineMaps, global_mean

DATA = Path(__file__).parents[1] / "data" / "dyhead_tower"
CASES = {case["name"]: case for case in json.loads((DATA / "cases.json").read_text())}
LEVELS = ("p3", "p4", "p5", "p6", "p7")


def channels_last(array):
    """NCHW, the layout of the oracle data, to NHWC."""
    return array.transpose(0, 2, 3, 1)


def load_case(name):
    """The parameters, reference arrays and channels-last inputs of a case."""
    case, reference = CASES[name], {}
    for path in sorted(DATA.glob(f"{name}.*npz")):
        reference.update(np.load(path))
    inputs = np.load(DATA / f"in_{case['pyramid']}_c{case['channels']}.npz")
    return case, reference, [channels_last(inputs[level]) for level in LEVELS]


def loaded_neck(case, inputs, start="released"):
    """A neck with the generated weights of a case, loaded from Microsoft's names."""
    neck = DyHeadNeck(case["blocks"], case["channels"], alignment="published", start=start)
    neck.build([x.shape for x in inputs])
    return load_tower(
        neck,
        microsoft_tower(
            case["channels"],
            case["blocks"],
            offset_conv_zeroed=case["offset_conv_zeroed"],
            factors=case["extra_factors"],
        ),
    )


def unshifted(coefficients):
    """The output of DYReLU's hard sigmoid, from which the released code derives a1, b1, a2, b2."""
    a1, b1, a2, b2 = coefficients
    return keras.ops.concatenate([a1 / 2, b1 + 0.5, (a2 + 1) / 2, b2 + 0.5], axis=-1)


@pytest.mark.parametrize("name", slow_on_jax(CASES, ["c32_n1_odd_zero", "c64_n1_odd"]))
def test_outputs_are_those_of_the_released_code(name):
    case, reference, inputs = load_case(name)
    outputs = run(loaded_neck(case, inputs), inputs)
    for level, output in zip(LEVELS, outputs, strict=True):
        assert relative_error(output, channels_last(reference[f"out/{level}"])) <= 1e-4, level


def test_a_neck_that_starts_near_the_identity_computes_the_same_bits():
    case, _, inputs = load_case("c32_n1_odd")
    released, identity = (loaded_neck(case, inputs, start) for start in ("released", "identity"))
    for found, expected in zip(run(identity, inputs), run(released, inputs), strict=True):
        np.testing.assert_array_equal(found, expected)


def intermediates(block, maps):
    """Intermediate values of a block by level and their name in the released code."""
    trace, high = block.trace(maps), block.spatial_attention.sample(maps)["high"]
    coarser = AffineMaps(high.values, high.scale, high.shift, high.mean).compute()
    names = {"mid": "temp_mid", "low": "temp_finer", "high": "temp_coarser"}
    found = {}
    for i, level in enumerate(LEVELS):
        fused = trace.scale[i]
        values = {
            **{names[branch]: x for branch, x in trace.branches[i].items()},
            "offset": trace.offsets[i],
            "mask": trace.masks[i],
            "scale_attention": keras.ops.stack(list(trace.weights[i].values())),
            "mean_fea": fused,
            "dyrelu_theta": unshifted(block.task_attention.coefficients(global_mean(fused))),
        }
        if i < 4:
            values["coarser_before_upsample"] = coarser[i]
        found.update({f"b0/{level}/{name}": value for name, value in values.items()})
    return found


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case["intermediates_block0"]])
def test_intermediates_are_those_of_the_released_code(name):
    case, reference, inputs = load_case(name)
    block = loaded_neck(case, inputs).blocks[0]
    found = run(lambda *maps: intermediates(block, maps), *inputs)
    wanted = {key: value for key, value in reference.items() if key.startswith("b0/")}
    assert wanted and wanted.keys() <= found.keys()
    for key, expected in wanted.items():
        expected = channels_last(expected) if expected.ndim == 4 else expected
        assert relative_error(found[key].reshape(expected.shape), expected) <= 1e-4, key


GRADIENTS = [name for name, case in CASES.items() if case["gradients"]]


@pytest.mark.parametrize("name", slow_on_jax(GRADIENTS, ["c32_n1_odd_zero"]))
def test_gradients_to_inputs_and_weights_are_those_of_the_released_code(name):
    case, reference, inputs = load_case(name)
    neck = loaded_neck(case, inputs)
    random = np.load(DATA / "R_odd_c32.npz")
    random = np.concatenate([channels_last(random[level]).ravel() for level in LEVELS])
    paths = {w.path.split("block_0/")[1]: w for w in neck.trainable_variables}

    _, gradients = vjp(*as_function(neck, inputs), random)
    for level, gradient in zip(LEVELS, gradients, strict=False):
        assert relative_error(gradient, channels_last(reference[f"grad_in/{level}"])) <= 1e-4
    by_variable = dict(
        zip((w.path for w in neck.trainable_variables), gradients[len(inputs) :], strict=True)
    )
    part = Part(paths, MICROSOFT_BLOCK)
    for path in paths:
        expected = reference[f"grad_w/dyhead_tower.0.{part.tensor_name(path)}"]
        if expected.ndim == 4 and "gate" not in path:
            expected = expected.transpose(2, 3, 1, 0)
        elif expected.ndim > 1:
            expected = expected.reshape(expected.shape[:2]).T
        assert relative_error(by_variable[paths[path].path], expected) <= 1e-4, path


def test_openmmlab_names_give_the_same_tower_as_microsofts():
    """The same arrays under either naming compute the same (OpenMMLab's have no bias)."""
    microsoft = microsoft_tower(32, 2)
    renamed = {}
    for key in openmmlab_tower(32, 2):
        block, name = re.fullmatch(r"neck\.1\.dyhead_blocks\.(\d)\.(.+)", key).groups()
        for ours, theirs in (
            ("spatial_conv_high", "DyConv.0"),
            ("spatial_conv_mid", "DyConv.1"),
            ("spatial_conv_low", "DyConv.2"),
            ("norm", "bn"),
            ("spatial_conv_offset", "offset"),
            ("scale_attn_module", "AttnConv"),
            ("task_attn_module.conv1.conv", "relu.fc.0"),
            ("task_attn_module.conv2.conv", "relu.fc.2"),
        ):
            name = name.replace(ours, theirs)
        value = microsoft[f"dyhead_tower.{block}.{name}"]
        renamed[key] = value[..., None, None] if "task" in key and value.ndim == 2 else value
    without_bias = {k: 0 * v if "conv.bias" in k else v for k, v in microsoft.items()}
    pyramid = [np.random.default_rng(i).normal(size=(1, n, n, 32)) for i, n in enumerate((8, 4, 2))]
    pyramid = [x.astype("float32") for x in pyramid]
    outputs = []
    for state, use_bias in ((without_bias, True), (renamed, False)):
        neck = DyHeadNeck(2, 32, alignment="published", use_bias=use_bias)
        neck.build([x.shape for x in pyramid])
        # Keys of a detector outside the tower are ignored.
        state = {**state, "backbone.conv1.weight": np.zeros(3), "bbox_head.bias": np.zeros(3)}
        outputs.append(run(load_tower(neck, state), pyramid))
    for a, b in zip(*outputs, strict=True):
        assert relative_error(a, b) <= 1e-6


def built_neck(**kwargs):
    """A one-block neck of 32 channels on two levels."""
    neck = DyHeadNeck(1, 32, **kwargs)
    neck.build([(1, 8, 8, 32), (1, 4, 4, 32)])
    return neck


@pytest.mark.parametrize(
    ("state", "kwargs", "message"),
    [
        ({}, {}, "no tower"),
        (openmmlab_tower(32, 1), {}, "need a neck with `use_bias=False`"),
        (microsoft_tower(32, 1), {"use_bias": False}, "need a neck with `use_bias=True`"),
        (microsoft_tower(32, 2), {}, "dyhead_tower.1.offset.weight: the model has no such"),
        (microsoft_tower(64, 1), {}, r"expected shape \(3, 3, 32, 32\), received \(3, 3, 64, 64\)"),
        (
            {k: v for k, v in microsoft_tower(32, 1).items() if k != "dyhead_tower.0.offset.bias"},
            {},
            "no tensor dyhead_tower.0.offset.bias in the state",
        ),
        ({**microsoft_tower(32, 1), **openmmlab_tower(32, 1)}, {}, "must hold one tower"),
    ],
)
def test_a_tower_that_does_not_fit_is_refused_and_nothing_loaded(state, kwargs, message):
    neck = built_neck(**kwargs)
    before = [keras.ops.convert_to_numpy(w) for w in neck.weights]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_tower(neck, state)
    for old, new in zip(before, neck.weights, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))


def test_an_unbuilt_neck_is_refused():
    with pytest.raises(ValueError, match="must be built"):
        load_tower(DyHeadNeck(1, 32), microsoft_tower(32, 1))
