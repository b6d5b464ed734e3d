"""Fine-tuning on other classes keeps all weights that do not depend on the classes."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
import torch
from cli.commands import output_of

from keras_dyhead.checkpoints import PUBLISHED, PublishedModel
from keras_dyhead.checkpoints.load_checkpoint import detector_parts
from keras_dyhead.coco import COCO_CLASSES, SHAPES, CocoAnnotations, draw_shapes, load_coco
from keras_dyhead.detectors import FCOS, DetectionPreprocessor
from keras_dyhead.training import Training, TrainingSettings
from keras_dyhead.training.backbone import small_backbone
from keras_dyhead.training.data import build_preprocessor
from keras_dyhead.training.model import build_detector, reinitialized_layers
from keras_dyhead.training.plan import planned_config, resolve_settings


@pytest.fixture(scope="module")
def trained(small_model, tmp_path_factory):
    """The file of a detector for other classes than the shapes."""
    path = tmp_path_factory.mktemp("trained") / "model.keras"
    small_model.with_classes(("ant", "bee")).save(path)
    return path


@pytest.fixture
def settings(data, trained):
    def settings(**changes):
        return TrainingSettings(**data, **{"weights": trained, "image_size": 64} | changes)

    return settings


def test_fine_tuning_keeps_all_weights_except_those_of_the_classes(
    settings, trained, tmp_path, eager
):
    training = Training(settings(epochs=1, batch_size=6, freeze=("backbone",)), tmp_path / "run")
    model, old = training.model, keras.saving.load_model(trained)
    assert model.class_names == SHAPES and reinitialized_layers(trained, SHAPES) == (
        "class_logits",
    )
    for before, after in zip(old.weights, model.weights, strict=True):
        if "class_logits" in before.path:
            assert after.shape[-1] == 5
        else:
            np.testing.assert_array_equal(before, after)
    assert training.settings.learning_rate == 1e-4
    assert model.preprocessor.image_size == (64, 64)
    assert not model.backbone.trainable_variables and model.neck.trainable_variables
    backbone = [np.array(weight) for weight in model.backbone.weights]
    training.model.fit(training.train_data, epochs=1, verbose=0)
    for before, after in zip(backbone, model.backbone.weights, strict=True):
        np.testing.assert_array_equal(before, after)
    steps = [
        np.abs(np.subtract(*w)).max()
        for w in zip(old.neck.weights, model.neck.weights, strict=True)
    ]
    assert 0 < max(steps) < 1e-3


def test_nothing_is_reset_for_the_same_classes(small_model, trained):
    assert reinitialized_layers(trained, ["ant", "bee"]) == ()
    again = small_model.with_classes(SHAPES)
    for before, after in zip(small_model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(before, after)


def test_faster_rcnn_resets_the_boxes_of_every_class():
    assert reinitialized_layers("dyhead_r50_rcnn_fpn_1x", SHAPES) == ("class_logits", "box_deltas")
    assert reinitialized_layers("dyhead_r50_atss_fpn_1x", SHAPES) == ("class_logits",)


def test_images_are_preprocessed_as_for_the_trained_detector(data, small_model, tmp_path):
    given = DetectionPreprocessor(
        min_side=64, max_side=96, pad_multiple=32, channel_order="BGR", mean=(1, 2, 3)
    )
    other = type(small_model).from_config(small_model.get_config())
    other.preprocessor = given
    other.save(tmp_path / "bgr.keras")
    made = build_preprocessor(TrainingSettings(**data, weights=tmp_path / "bgr.keras"))
    assert (made.channel_order, made.mean, made.image_size) == ("BGR", (1, 2, 3), (512, 512))
    canvases = ((64, 96), (96, 64))
    made = build_preprocessor(
        TrainingSettings(**data, weights=tmp_path / "bgr.keras", canvases=canvases)
    )
    assert (made.min_side, made.max_side, made.image_size) == (64, 96, None)


def test_a_detector_for_one_image_size_keeps_it(data, tmp_path):
    from small_detector import small_detector

    small_detector(image_shape=(64, 64, 3)).save(tmp_path / "fixed.keras")
    settings = TrainingSettings(**data, weights=tmp_path / "fixed.keras")
    assert build_preprocessor(settings).image_size == (64, 64)
    with pytest.raises(ValueError, match="is for images of 64 x 64 pixels.*image_size=96"):
        build_preprocessor(TrainingSettings(**data, weights=settings.weights, image_size=96))


def test_the_plan_says_what_the_file_holds_and_which_layers_are_reset(settings, tmp_path):
    model = FCOS(small_backbone((64, 64, 3), "mixed_bfloat16"), 2, dtype="mixed_bfloat16")
    model.save(tmp_path / "half.keras")
    config = planned_config(settings(weights=tmp_path / "half.keras"))
    kept = {"detector": "FCOS", "dtype": "mixed_bfloat16", "reinitialized": ["class_logits"]}
    assert config["follows"]["weights"] == kept
    for name in ("detector", "backbone", "use_scale_attention", "dtype"):
        assert config["settings"][name] is None


def test_settings_that_the_model_fixes_cannot_be_set(settings, data, tmp_path, small_model):
    with pytest.raises(ValueError, match="model in `weights` cannot be changed.*channels.: 32"):
        settings(channels=32)
    with pytest.raises(ValueError, match="model in `weights` cannot be changed.*detector.: 'atss'"):
        settings(detector="atss")
    with pytest.raises(ValueError, match="`freeze` must be among .*Received: freeze=.'neckk',"):
        settings(freeze=["neckk"])
    with pytest.raises(ValueError, match="no file none.keras, and no published model"):
        planned_config(settings(weights="none.keras"))
    (tmp_path / "text.keras").write_text("text")
    with pytest.raises(ValueError, match="text.keras is not a model that Keras can load"):
        planned_config(settings(weights=tmp_path / "text.keras"))
    small_model.backbone.save(tmp_path / "backbone.keras")
    with pytest.raises(
        ValueError, match="must contain a keras_dyhead detector. Received: a ResNetBackbone"
    ):
        planned_config(settings(weights=tmp_path / "backbone.keras"))


def test_freezing_a_missing_part_is_allowed(tiny, data):
    settings = tiny(freeze=("neck", "pyramid"), detector="fcos")
    settings = resolve_settings(settings, CocoAnnotations(data["annotations"], data["images"]))
    model = build_detector(settings, ["a"], 1, build_preprocessor(settings))
    assert model.neck is None and not model.pyramid.trainable_variables


def published_layout(model, record):
    """The tensors of a detector with their published names, in PyTorch's layout."""
    tower = {"backbone.dyhead_tower.0.offset.weight": None}
    state = {}
    for part in detector_parts(model, record, tower):
        for path, variable in part.weights.items():
            array = np.array(variable)
            if "offset_conv" in path:  # see `tower_part`
                array *= model.neck.blocks[0].spatial_attention.offset_scale
            if path.endswith("kernel"):
                array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
            state[part.tensor_name(path)] = torch.tensor(np.ascontiguousarray(array))
    return state


def draw(folder, num_images, start, classes=5):
    """Draws few plain shapes. Those of later classes belong to the background."""
    path = draw_shapes(
        *(folder, num_images, 64),
        **{"start": start, "max_shapes": 3, "size_range": (16, 40)},
        **{"empty_fraction": 0, "clutter": 0.3},
    )
    content = json.loads(path.read_text())
    content["categories"] = content["categories"][:classes]
    kept = {category["id"] for category in content["categories"]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
    path.write_text(json.dumps(content))
    return folder / "images", path


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A published checkpoint trained on five shapes, and one with random weights."""
    record = PublishedModel(
        origin="microsoft",
        detector="atss",
        backbone="ResNetBackbone",
        backbone_arguments={"depth": 18, "base_channels": 8, "batch_norm": "train"},
        neck={"num_blocks": 1, "channels": 16, "alignment": "published", "start": "identity"},
        pyramid={"max_level": 5},
        arguments={"head_kernel_size": 1},
        preprocessing={"pad_multiple": 32},
        source=None,
    )
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    models = {}
    for name in ("learned", "random"):
        source = f"http://127.0.0.1:1/models/{name}.pth"
        monkeypatch.setitem(PUBLISHED, name, dataclasses.replace(record, source=source))
        model = record.build()
        if name == "learned":
            images, annotations = draw(tmp_path / "old", 64, start=0)
            model = model.with_classes(SHAPES)
            options = {"batch_size": 8, "image_size": (64, 64), "training": True}
            options["preprocessor"] = DetectionPreprocessor((64, 64))
            data = load_coco(images, annotations, **options)
            model.compile(keras.optimizers.AdamW(2e-3, global_clipnorm=10.0))
            model.fit(data, epochs=40, verbose=0)
            model = model.with_classes(COCO_CLASSES)
        state = {"model": published_layout(model, record)}
        torch.save(state, tmp_path / "models" / f"{name}.pth")
        models[name] = model
    return models


@pytest.mark.slow
def test_one_command_fine_tunes_a_published_checkpoint(published, tmp_path):
    """With three classes, it gets further than random weights, none of them frozen."""
    images, annotations = draw(tmp_path / "new", 24, start=1000, classes=3)
    val_images, val_annotations = draw(tmp_path / "val", 24, start=2000, classes=3)
    command = ("train", "--images", images, "--annotations", annotations, "eval_every=30")
    command += ("--val-images", val_images, "--val-annotations", val_annotations)
    command += ("--image-size", 64, "--epochs", 30, "--batch-size", 8, "--learning-rate", 0.001)
    told, ends = {}, {}
    for name, options in (("learned", ("--freeze", "backbone")), ("random", ())):
        out = tmp_path / name
        told[name] = output_of(*command, "--weights", name, "--out", out, *options)
        with (out / "history.csv").open() as file:
            ends[name] = list(csv.DictReader(file))[-1]
    learned, random = (
        {key: float(value) for key, value in ends[name].items()} for name in ("learned", "random")
    )
    assert learned["val_AP"] > 1.2 * random["val_AP"] and learned["val_AP50"] > 0.1
    assert learned["loss"] < 0.8 * random["loss"]

    assert "ATSS from learned" in told["learned"] and "frozen: backbone" in told["learned"]
    text = "all weights except those of class_logits, reset for the new classes"
    assert text in told["learned"]
    mine = keras.saving.load_model(tmp_path / "learned" / "model.keras")
    assert mine.class_names == SHAPES[:3] and not mine.backbone.trainable_variables
    backbones = (published["learned"].backbone.weights, mine.backbone.weights)
    for before, after in zip(*backbones, strict=True):
        np.testing.assert_array_equal(before, after)
