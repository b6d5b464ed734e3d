"""Learning rates, weight decay and updates are those that the published detectors had."""

import bisect
import dataclasses
import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import torch

from keras_dyhead.checkpoints import PUBLISHED
from keras_dyhead.checkpoints.load_checkpoint import detector_parts
from keras_dyhead.optimizers import RatedAdamW, RegularizedSGD, is_named
from keras_dyhead.recipes import RECIPES, recipe_settings
from keras_dyhead.training.optimizer import (
    OptimizerSettings,
    build_optimizer,
    build_schedule,
)

NAMES = Path(__file__).parent / "checkpoints" / "data" / "tensor_names.json.gz"
FIELDS = [field.name for field in dataclasses.fields(OptimizerSettings)]


def optimizer_settings(recipe, **changes):
    settings = {k: v for k, v in recipe_settings(recipe).items() if k in FIELDS}
    return OptimizerSettings(**settings | changes)


def rates(settings, batch_size, steps, at):
    schedule = build_schedule(settings, batch_size, steps)
    return np.array([float(schedule(step)) for step in at])


def published_rate(step, base, warmup, milestones):
    """detectron2's `WarmupMultiStepLR`, mmdetection 2's step policy, in float64."""
    done = min(1.0, step / warmup)
    return base * (0.001 * (1 - done) + done) * 0.1 ** bisect.bisect_right(milestones, step)


@pytest.mark.parametrize(
    ("recipe", "batch_size", "base"),
    [
        ("dyhead_r50_atss_fpn_1x", 16, 0.01),
        ("dyhead_r50_retina_fpn_1x", 16, 0.01),
        ("dyhead_r50_rcnn_fpn_1x", 16, 0.02),
        ("dyhead_swint_atss_fpn_2x_ms", 32, 1e-4),
        ("atss_x101_dcn_dyhead_2x", 16, 0.01),
    ],
)
def test_microsofts_learning_rates_at_every_turn(recipe, batch_size, base):
    """90 000 steps, a tenth from step 60 000 and again from 80 000, 1000 steps of warm-up."""
    at = [0, 1, 500, 999, 1000, 1001, 30_000, 59_999, 60_000, 79_999, 80_000, 89_999]
    expected = [published_rate(step, base, 1000, (60_000, 80_000)) for step in at]
    assert math.isclose(expected[0], base / 1000) and expected[6] == base
    np.testing.assert_allclose(
        rates(optimizer_settings(recipe), batch_size, 90_000, at), expected, rtol=2e-6
    )


@pytest.mark.parametrize(
    ("recipe", "base"),
    [
        ("atss_r50_fpn_dyhead_1x_coco", 0.01),
        ("atss_r50_caffe_fpn_dyhead_1x_coco", 0.01),
        ("atss_swin_l_fpn_dyhead_ms_2x_coco", 5e-5),
    ],
)
def test_openmmlabs_learning_rates_at_every_turn(recipe, base):
    """12 epochs of 7330 steps, a tenth from the 9th and again from the 12th, 500 to warm up."""
    milestones = (8 * 7330, 11 * 7330)
    at = [0, 1, 250, 499, 500, 40_000]
    at += [turn + step for turn in milestones for step in (-1, 0, 1)]
    expected = [published_rate(step, base, 500, milestones) for step in at]
    np.testing.assert_allclose(
        rates(optimizer_settings(recipe), 16, 12 * 7330, at), expected, rtol=2e-6
    )


def test_the_cosine_falls_to_a_fiftieth_after_a_line_from_a_hundredth():
    steps, warmup, peak = 4000, 200, 0.02
    at = [0, 1, 100, 199, 200, 201, 2100, 3999, 4000]

    def rate(step):
        if step < warmup:
            return peak * (0.01 + 0.99 * step / warmup)
        done = (step - warmup) / (steps - warmup)
        return peak * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)

    settings = OptimizerSettings(learning_rate=peak)
    np.testing.assert_allclose(rates(settings, 4, steps, at), list(map(rate, at)), rtol=1e-5)
    without = dataclasses.replace(settings, warmup_steps=0)
    assert rates(without, 4, steps, [0])[0] == np.float32(peak)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_the_learning_rate_follows_the_images_of_an_update(schedule):
    """Linearly from the base; several steps of one update count together, and last longer."""
    settings = OptimizerSettings(learning_rate=0.01, base_batch_size=16, schedule=schedule)
    assert settings.scaled(16, 1000)["peak_learning_rate"] == 0.01
    assert settings.scaled(2, 1000)["peak_learning_rate"] == 0.00125
    unscaled = dataclasses.replace(settings, base_batch_size=None)
    assert unscaled.scaled(2, 1000)["peak_learning_rate"] == 0.01
    several = dataclasses.replace(settings, accumulate_steps=8, warmup_steps=10)
    assert several.scaled(2, 1000)["peak_learning_rate"] == 0.01
    assert several.scaled(2, 1000)["warmup_steps"] == 80
    assert max(rates(settings, 2, 1000, range(0, 1000, 10))) == pytest.approx(0.00125, rel=1e-3)


WEIGHTS = {"conv/kernel": [[0.5, -2.0]], "conv/bias": [3.0, 1.0], "norm/gamma": [1.0, -1.0]}


def gradients(step):
    rng = np.random.default_rng(step)
    return {path: rng.normal(size=np.shape(values)) for path, values in WEIGHTS.items()}


def named_variables():
    variables = []
    for path, values in WEIGHTS.items():
        scope, name = path.split("/")
        with keras.name_scope(scope):
            variables.append(keras.Variable(np.array(values, "float32"), name=name))
    return variables


@pytest.mark.parametrize(
    ("name", "original"),
    [
        ("sgd", lambda groups: torch.optim.SGD(groups, momentum=0.9)),
        ("adamw", lambda groups: torch.optim.AdamW(groups)),
    ],
)
def test_updates_are_those_of_pytorch(name, original):
    """Also while the learning rate changes, with weights that do not decay."""
    settings = OptimizerSettings(
        optimizer=name,
        learning_rate=0.05,
        schedule="step",
        milestones=(0.5, 0.8),
        warmup_steps=5,
        weight_decay=0.1,
        no_decay=(r"(bias|gamma)$",),
        clip_norm=None,
    )
    steps = 20
    variables = named_variables()
    assert [variable.path for variable in variables] == list(WEIGHTS)
    optimizer = build_optimizer(settings, variables, batch_size=1, steps=steps)
    tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in WEIGHTS.values()]
    groups = [
        {"params": [tensor], "lr": 0.05, "weight_decay": 0.1 if path == "conv/kernel" else 0.0}
        for path, tensor in zip(WEIGHTS, tensors, strict=True)
    ]
    reference = original(groups)
    for step in range(steps):
        found = gradients(step)
        for group in reference.param_groups:
            group["lr"] = published_rate(step, 0.05, 5, (10, 16))
        for tensor, gradient in zip(tensors, found.values(), strict=True):
            tensor.grad = torch.tensor(gradient)
        reference.step()
        optimizer.apply([np.float32(gradient) for gradient in found.values()], variables)
    for variable, tensor in zip(variables, tensors, strict=True):
        np.testing.assert_allclose(variable.numpy(), tensor.detach().numpy(), atol=2e-6)


def test_the_sgd_comes_back_from_its_configuration():
    settings = optimizer_settings("dyhead_r50_atss_fpn_1x", no_decay=("bias$",), ema_momentum=0.9)
    optimizer = build_optimizer(settings, named_variables(), 16, 100)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, RegularizedSGD) and copy.get_config() == optimizer.get_config()
    assert (copy.l2, copy.no_l2, copy.momentum) == (1e-4, ("bias$",), 0.9)
    for step in (0, 50, 99):
        optimizer.iterations.assign(step)
        copy.iterations.assign(step)
        assert float(copy.learning_rate) == float(optimizer.learning_rate)


def test_adamw_moves_named_weights_at_their_rate_and_comes_back_from_its_configuration():
    """PyTorch's parameter groups are the reference."""
    optimizer = RatedAdamW(0.01, rates={"conv/": 0.1}, weight_decay=0.0, epsilon=1e-8)
    optimizer = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(optimizer, RatedAdamW)
    variables = named_variables()
    tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in WEIGHTS.values()]
    reference = torch.optim.AdamW(
        [
            {"params": [tensor], "lr": 0.001 if path.startswith("conv/") else 0.01}
            for path, tensor in zip(WEIGHTS, tensors, strict=True)
        ],
        weight_decay=0.0,
    )
    for step in range(10):
        found = gradients(step)
        for tensor, gradient in zip(tensors, found.values(), strict=True):
            tensor.grad = torch.tensor(gradient)
        reference.step()
        optimizer.apply([np.float32(gradient) for gradient in found.values()], variables)
    for variable, tensor in zip(variables, tensors, strict=True):
        np.testing.assert_allclose(variable.numpy(), tensor.detach().numpy(), atol=2e-6)


LOADING = """
import sys, keras, keras_dyhead
print(*(type(keras.saving.load_model(path).optimizer).__name__ for path in sys.argv[1:]))
"""


def test_importing_the_package_is_enough_to_load_a_model_with_its_optimizer(tmp_path):
    paths = []
    for name, schedule in (("adamw", "cosine"), ("sgd", "step")):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        settings = OptimizerSettings(name, schedule=schedule, offset_rate=0.1)
        model.compile(build_optimizer(settings, model.trainable_variables, 8, 100), "mse")
        paths.append(tmp_path / f"{name}.keras")
        model.save(paths[-1])
    process = subprocess.run(
        [sys.executable, "-c", LOADING, *paths], capture_output=True, text=True, check=True
    )
    assert process.stdout.split() == ["RatedAdamW", "RegularizedSGD"]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_accumulated_steps_are_one_step_with_the_mean_gradient(name):
    settings = OptimizerSettings(optimizer=name, schedule="step", warmup_steps=0)
    whole, parts = named_variables(), named_variables()
    first, second = (
        [np.float32(gradient) for gradient in gradients(step).values()] for step in (0, 1)
    )
    mean = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    build_optimizer(settings, whole, 8, 10).apply(mean, whole)
    settings = dataclasses.replace(settings, accumulate_steps=2)
    optimizer = build_optimizer(settings, parts, 4, 20)
    optimizer.apply(first, parts)
    np.testing.assert_array_equal(parts[0].numpy(), WEIGHTS["conv/kernel"])
    optimizer.apply(second, parts)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


def test_the_average_leaves_as_much_per_update_however_many_steps_it_takes():
    settings = OptimizerSettings(ema_momentum=0.8, accumulate_steps=4)
    optimizer = build_optimizer(settings, named_variables(), 1, 10)
    assert optimizer.use_ema and optimizer.ema_momentum**4 == pytest.approx(0.8)
    assert not build_optimizer(OptimizerSettings(), named_variables(), 1, 10).use_ema


SMALL = {
    "ResNetBackbone": {"base_channels": 8},
    "SwinBackbone": {
        "embed_dim": 12,
        "depths": (1, 2, 1, 1),
        "num_heads": (1, 1, 2, 2),
        "window_size": 4,
    },
}
# Which tensors of PyTorch do not decay, as the published training says it, by their names:
# `"bias" in key` of Microsoft's train_net.py; `custom_keys` of OpenMMLab's configuration.
PUBLISHED_RULES = {
    "dyhead_swint_atss_fpn_2x_ms": lambda name: "bias" in name,
    "atss_swin_l_fpn_dyhead_ms_2x_coco": lambda name: (
        "absolute_pos_embed" in name or "relative_position_bias_table" in name or "norm" in name
    ),
}


@pytest.mark.parametrize("recipe", PUBLISHED_RULES)
def test_the_weights_that_do_not_decay_are_those_of_the_published_training(recipe):
    """By the names of the original tensors, of a model that has all kinds of them."""
    settings = recipe_settings(recipe)
    record = PUBLISHED[settings["detector"]]
    small = {**record.backbone_arguments, **SMALL[record.backbone]}
    record = dataclasses.replace(
        record,
        backbone_arguments=small,
        neck={**record.neck, "num_blocks": 1, "channels": 16},
    )
    model = record.build()
    names = json.loads(gzip.decompress(NAMES.read_bytes()))[settings["detector"]]
    tensor_names = {
        id(variable): part.tensor_name(path)
        for part in detector_parts(model, record, names)
        for path, variable in part.weights.items()
    }
    rule = PUBLISHED_RULES[recipe]
    expected = {v.path for v in model.trainable_variables if rule(tensor_names[id(v)])}
    spared = {v.path for v in model.trainable_variables if is_named(v, settings["no_decay"])}
    assert spared == expected
    assert 20 < len(spared) < len(model.trainable_variables) - 20


def test_recipes_of_resnets_let_every_weight_decay():
    """Neither released training has an exception for them."""
    resnets = [name for name in RECIPES if "r50" in name or "x101" in name]
    assert len(resnets) == 6
    assert not any(recipe_settings(name).get("no_decay") for name in resnets)
    assert all(recipe_settings(name)["weight_decay"] == 1e-4 for name in resnets)


@pytest.mark.parametrize(
    "wrong",
    [
        {"optimizer": "adam"},
        {"schedule": "linear"},
        {"learning_rate": 0.0},
        {"milestones": (0.8, 0.5)},
        {"milestones": (8, 11)},
        {"milestones": ()},
        {"ema_momentum": 1.0},
        {"no_decay": ("(",)},
        {"accumulate_steps": 0},
        {"clip_norm": -1.0},
    ],
)
def test_impossible_optimizers_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}` must.*Received"):
        OptimizerSettings(**wrong)
