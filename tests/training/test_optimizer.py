"""Learning rates, weight decay and updates are those of the published training runs."""

import bisect
import dataclasses
import math

import keras
import numpy as np
import pytest
import torch

from keras_dyhead.recipes import load_recipe
from keras_dyhead.training import TrainingSettings
from keras_dyhead.training.optimizer import build_optimizer, build_schedule


def settings_of(**changes):
    return TrainingSettings("images", "instances.json", **changes)


def rates(settings, steps, at):
    schedule = build_schedule(settings, steps)
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
        ("atss_x101-64x4d-dcnv2_fpn_dyhead", 16, 0.01),
    ],
)
def test_learning_rates_are_microsofts(recipe, batch_size, base):
    """90,000 steps, divided by 10 at steps 60,000 and 80,000, 1000 warm-up steps."""
    at = [0, 1, 500, 999, 1000, 1001, 30_000, 59_999, 60_000, 79_999, 80_000, 89_999]
    expected = [published_rate(step, base, 1000, (60_000, 80_000)) for step in at]
    assert math.isclose(expected[0], base / 1000) and expected[6] == base
    settings = settings_of(**load_recipe(recipe).SETTINGS)
    assert settings.batch_size == batch_size
    np.testing.assert_allclose(rates(settings, 90_000, at), expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("recipe", "base"),
    [
        ("atss_r50_fpn_dyhead_1x_coco", 0.01),
        ("atss_r50-caffe_fpn_dyhead_1x_coco", 0.01),
        ("atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco", 5e-5),
    ],
)
def test_learning_rates_are_openmmlabs(recipe, base):
    """12 epochs of 7330 steps, divided by 10 at epochs 9 and 12, 500 warm-up steps."""
    milestones = (8 * 7330, 11 * 7330)
    at = [0, 1, 250, 499, 500, 40_000]
    at += [turn + step for turn in milestones for step in (-1, 0, 1)]
    expected = [published_rate(step, base, 500, milestones) for step in at]
    settings = settings_of(**load_recipe(recipe).SETTINGS)
    assert settings.batch_size == 16
    np.testing.assert_allclose(rates(settings, 12 * 7330, at), expected, rtol=2e-6)


def test_the_cosine_schedule_warms_up_from_a_hundredth_and_decays_to_a_fiftieth():
    steps, warmup, peak = 4000, 200, 0.02
    at = [0, 1, 100, 199, 200, 201, 2100, 3999, 4000]

    def rate(step):
        if step < warmup:
            return peak * (0.01 + 0.99 * step / warmup)
        done = (step - warmup) / (steps - warmup)
        return peak * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)

    settings = settings_of(learning_rate=peak)
    np.testing.assert_allclose(rates(settings, steps, at), list(map(rate, at)), rtol=1e-5)
    without = dataclasses.replace(settings, warmup_steps=0)
    assert rates(without, steps, [0])[0] == np.float32(peak)


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
    """With a changing learning rate and weights that do not decay."""
    settings = settings_of(
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
    optimizer = build_optimizer(settings, variables, steps)
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


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_accumulated_steps_are_one_step_with_the_mean_gradient(name):
    settings = settings_of(optimizer=name, schedule="step", warmup_steps=0)
    whole, parts = named_variables(), named_variables()
    first, second = (
        [np.float32(gradient) for gradient in gradients(step).values()] for step in (0, 1)
    )
    mean = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    build_optimizer(settings, whole, 10).apply(mean, whole)
    settings = dataclasses.replace(settings, accumulate_steps=2)
    optimizer = build_optimizer(settings, parts, 20)
    optimizer.apply(first, parts)
    np.testing.assert_array_equal(parts[0].numpy(), WEIGHTS["conv/kernel"])
    optimizer.apply(second, parts)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)


def test_the_moving_average_has_the_same_momentum_per_update_for_any_number_of_steps():
    settings = settings_of(ema_momentum=0.8, accumulate_steps=4)
    optimizer = build_optimizer(settings, named_variables(), 10)
    assert optimizer.use_ema and optimizer.ema_momentum**4 == pytest.approx(0.8)
    assert not build_optimizer(settings_of(), named_variables(), 10).use_ema
