"""The state of a detector survives `load_model` and `with_classes`."""

import keras
import numpy as np
import pytest
from detectors.scenes import small_backbone, small_detector

from keras_dyhead.backbones import ResNetBackbone
from keras_dyhead.detectors import ATSS, FasterRCNN, RepPoints
from keras_dyhead.layers import DyHeadNeck, FeaturePyramid
from keras_dyhead.layers.frozen import frozen_layers


def atss(**kwargs):
    backbone = kwargs.pop("backbone", None) or small_backbone()
    return ATSS(backbone, 3, DyHeadNeck(1, 16), FeaturePyramid(16, max_level=5), **kwargs)


def saved_and_loaded(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


def assert_same_state(again, model):
    """The same layers are frozen, the same weights train, and the optimizer continues."""
    assert frozen_layers(again) == frozen_layers(model)
    paths = [[w.path for w in m.trainable_variables] for m in (again, model)]
    assert paths[0] == paths[1]
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations) == 1
    pairs = list(zip(again.optimizer.variables, model.optimizer.variables, strict=True))
    assert len(pairs) >= 2
    for variables in pairs:
        np.testing.assert_array_equal(*variables)


def freeze_first_layers(model):
    for layer in model.backbone.layers[:10]:
        layer.trainable = False
    model.pyramid.trainable = False


FREEZE = {
    "pyramid and half of the backbone": freeze_first_layers,
    "head and one block": lambda model: (
        setattr(model.head, "trainable", False),
        setattr(model.neck.blocks[0], "trainable", False),
    ),
    "a frozen stage trains": lambda model: setattr(model.backbone, "trainable", True),
    "all but the head": lambda model: (
        setattr(model, "trainable", False),
        setattr(model, "trainable", True),
        setattr(model.backbone, "trainable", False),
        setattr(model.neck, "trainable", False),
    ),
}


def take_a_step(model):
    """Of nothing but the optimizer, whose variables then differ from their initial values."""
    model.compile("adam")
    ones = [keras.ops.ones_like(variable) for variable in model.trainable_variables]
    model.optimizer.apply(ones, model.trainable_variables)


@pytest.mark.parametrize("freeze", FREEZE)
def test_frozen_layers_and_the_optimizer_are_kept(freeze, tmp_path):
    model = atss(backbone=ResNetBackbone(18, base_channels=8, frozen_stages=1))
    FREEZE[freeze](model)
    take_a_step(model)
    assert_same_state(saved_and_loaded(model, tmp_path), model)


def test_layers_of_a_two_stage_head_are_kept(tmp_path):
    model = small_detector("faster-rcnn", 1)
    model.head.rpn.trainable = False
    take_a_step(model)
    again = saved_and_loaded(model, tmp_path)
    assert_same_state(again, model)
    assert not again.head.rpn.trainable_variables and again.head.box_head.trainable_variables


def test_a_backbone_saved_separately_keeps_its_frozen_layers(tmp_path):
    backbone = ResNetBackbone(18, base_channels=8, frozen_stages=1)
    backbone.get_layer("layer4_0_conv1").trainable = False
    backbone.get_layer("conv1").trainable = True
    again = saved_and_loaded(backbone, tmp_path)
    paths = [[w.path for w in m.trainable_variables] for m in (again, backbone)]
    assert paths[0] == paths[1] and "conv1/kernel" in paths[0]


def test_policy_and_compile_arguments_are_kept(tmp_path):
    half = {"dtype": "mixed_bfloat16"}
    neck, pyramid = DyHeadNeck(1, 16, **half), FeaturePyramid(16, max_level=5, **half)
    model = ATSS(ResNetBackbone(18, base_channels=8, **half), 3, neck, pyramid, **half)
    model.compile(keras.optimizers.SGD(0.25, momentum=0.5), steps_per_execution=3, run_eagerly=True)
    again = saved_and_loaded(model, tmp_path)
    for layer in (again, again.neck, again.neck.blocks[0], again.pyramid, again.head):
        assert layer.dtype_policy.name == "mixed_bfloat16"
    assert again.backbone.get_layer("conv1").dtype_policy.name == "mixed_bfloat16"
    assert float(again.optimizer.learning_rate) == 0.25 and again.optimizer.momentum == 0.5
    assert again.steps_per_execution == 3 and again.run_eagerly and not again.jit_compile


def weights_that_differ(model, other):
    pairs = zip(model.weights, other.weights, strict=True)
    return {
        old.path.split("/", 1)[-1]
        for old, new in pairs
        if old.shape != new.shape or not np.array_equal(old, new)
    }


def test_for_other_classes_all_weights_except_the_scores_are_kept():
    model = atss(class_names=("a", "b", "c"))
    model.pyramid.trainable = False
    for weight in model.head.weights:
        weight.assign(keras.random.normal(weight.shape, seed=1))
    scores = {"class_logits/kernel", "class_logits/bias"}
    more = model.with_classes(["a", "b", "c", "d", "e"])
    assert more.num_classes == 5 and more.class_names == ("a", "b", "c", "d", "e")
    assert weights_that_differ(model, more) == scores
    assert frozen_layers(more) == frozen_layers(model) != []
    # Scores of as many other classes are reinitialized; those of the same classes are kept.
    assert weights_that_differ(model, model.with_classes(["x", "b", "c"])) == scores
    assert weights_that_differ(model, model.with_classes(model.class_names)) == set()


def test_with_two_stages_the_boxes_of_every_class_are_reinitialized():
    model = small_detector("faster-rcnn", 1)
    differ = weights_that_differ(model, model.with_classes(["a"]))
    assert {name.split("/")[-2] for name in differ} == {"class_logits", "box_deltas"}
    assert all("box_head" in name for name in differ) and len(differ) == 4


def test_names_of_other_classes_are_checked():
    model = atss()
    for names in ("cat", [], ("a", "a"), None, 3, (1, "1")):
        with pytest.raises(ValueError, match="must be a sequence of different names"):
            model.with_classes(names)


def test_a_wrong_number_of_class_names_is_rejected():
    """In the constructor, and on assignment, which then keeps the old names."""
    message = "3 names, one for each class. Received: "
    with pytest.raises(ValueError, match=message):
        atss(class_names="abc")
    model = atss(class_names=np.array(["a", "b", "c"]))
    for names in ("abc", ("a", "b"), ["a"] * 4, [], 3):
        with pytest.raises(ValueError, match=message):
            model.class_names = names
    assert model.class_names == ("a", "b", "c")


def test_names_assigned_later_and_numpy_integers_are_kept(tmp_path):
    model = ATSS(
        small_backbone(),
        np.int64(3),
        DyHeadNeck(1, 16),
        FeaturePyramid(16, max_level=5),
        image_shape=tuple(np.array([64, 64, 3])),
    )
    model.class_names = [1, "b", "c"]
    config = model.get_config()
    found = [*config["image_shape"], config["num_classes"]]
    assert found == [64, 64, 3, 3] and all(type(n) is int for n in found)
    assert saved_and_loaded(model, tmp_path).class_names == ("1", "b", "c")


@pytest.mark.parametrize("count", [0, -1, 2.0, True, "3", None])
@pytest.mark.parametrize("make", [ATSS, FasterRCNN, RepPoints])
def test_an_invalid_number_of_classes_is_rejected(make, count):
    with pytest.raises(ValueError, match="`num_classes` must be an int of at least 1"):
        make(None, count)
