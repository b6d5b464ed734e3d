"""`keras-dyhead train` and `demo`: options become settings, and bad input one message."""

import dataclasses
import json

import keras
import pytest
from cli.commands import complaint, invoke, output_of

from keras_dyhead import training
from keras_dyhead.coco import draw_shapes
from keras_dyhead.recipes import load_recipe
from keras_dyhead.training import TrainingSettings, run
from keras_dyhead.training.settings import DEFAULT_NUM_BLOCKS

X101 = "atss_x101-64x4d-dcnv2_fpn_dyhead"


@pytest.fixture
def data(tmp_path):
    path = draw_shapes(tmp_path / "data", 2, image_size=64, empty_fraction=0)
    return ["--images", tmp_path / "data" / "images", "--annotations", path]


def test_a_missing_folder_is_named(data, tmp_path):
    message = complaint("train", "--images", tmp_path / "no", *data[2:], "--out", tmp_path / "run")
    assert "--images" in message and "does not exist" in message


def test_annotations_that_are_not_a_coco_file_are_named(data, tmp_path):
    (tmp_path / "x.json").write_text("[]")
    message = complaint(
        "train", *data[:2], "--annotations", tmp_path / "x.json", "--out", tmp_path / "run"
    )
    assert "x.json must hold a JSON object" in message.replace("- ", "-")
    assert not (tmp_path / "run").exists()


def test_a_data_set_without_boxes_is_refused(data, tmp_path):
    content = json.loads(data[3].read_text()) | {"annotations": []}
    data[3].write_text(json.dumps(content))
    assert "no boxes to train on" in complaint("train", *data, "--out", tmp_path / "run")


def test_a_category_that_training_does_not_know_is_named(data, tmp_path):
    content = json.loads(data[3].read_text())
    content["categories"].append({"id": 99, "name": "heptagon"})
    (tmp_path / "val.json").write_text(json.dumps(content))
    val = ["--val-images", data[1], "--val-annotations", tmp_path / "val.json"]
    told = complaint("train", *data, *val, "--out", tmp_path / "run")
    assert "['heptagon']" in told and "--on-error skip leaves the others out" in told


def test_annotations_that_cannot_be_used_are_named_with_the_option_to_skip_them(data, tmp_path):
    content = json.loads(data[3].read_text())
    content["annotations"][0]["bbox"] = [1, 2, 3]
    data[3].write_text(json.dumps(content))
    told = complaint("train", *data, "--out", tmp_path / "run")
    assert "has 1 problem (--on-error skip leaves the items out)" in told
    assert "on_error" not in told


def test_a_folder_with_files_is_refused(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("mine")
    assert "is not empty" in complaint("train", *data, "--out", tmp_path / "run")
    assert "is not empty" in complaint("demo", "--out", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["letter.txt"]


@pytest.mark.parametrize("name", ["run [v2]", "a\\b", "run \udcff"])
def test_a_folder_that_tensorflow_could_not_load_from_is_refused(name, data, tmp_path):
    for command in (["train", *data], ["demo"]):
        message = complaint(*command, "--out", tmp_path / name)
        assert "choose another" in message and "bracket, a backslash" in message
    assert not (tmp_path / name).exists()


def test_an_unknown_backbone_is_named(data, tmp_path):
    message = complaint("train", *data, "--out", tmp_path / "run", "--backbone", tmp_path / "none")
    assert "`backbone` must be one of" in message


@pytest.mark.parametrize("command", ["train", "demo"])
def test_an_unknown_detector_is_named(command, data, tmp_path):
    arguments = data if command == "train" else []
    message = complaint(command, *arguments, "--out", tmp_path / "run", "--detector", "yolo")
    assert "`detector` must be one of ['atss', " in message and "'yolo'" in message
    assert not (tmp_path / "run").exists()


@pytest.fixture
def dataset(data):
    return {"images": data[1], "annotations": data[3]}


def train(dataset, *options):
    arguments = [x for name, path in dataset.items() for x in (f"--{name}", path)]
    return invoke("train", *arguments, *options)


@pytest.fixture
def settings_of(monkeypatch, dataset, tmp_path):
    """Returns the settings that `keras-dyhead train` with some options would train with."""

    def settings_of(*options):
        asked = []

        def stop(settings, *_, **__):
            asked.append(settings)
            raise ValueError("asked enough")

        monkeypatch.setattr(training, "Training", stop)
        assert "asked enough" in train(dataset, "--out", tmp_path / "run", *options).output
        return asked[0]

    return settings_of


def test_command_line_options_override_the_recipe(settings_of):
    """Even an option that equals the default, and only options that were given."""
    recipe = load_recipe(X101).SETTINGS
    found = dataclasses.asdict(settings_of("--recipe", X101))
    assert {name: found[name] for name in recipe} == recipe
    options = ("--num-blocks", "1", "--batch-size", "4", "--backbone", "small")
    found = settings_of("--recipe", X101, *options, "epochs=3", "augmentation.horizontal_flip=0")
    assert (found.num_blocks, found.batch_size, found.backbone) == (1, 4, "small")
    assert (found.epochs, found.weight_decay) == (3, 1e-4)
    assert found.augmentation == {**recipe["augmentation"], "horizontal_flip": 0}
    assert settings_of("--recipe", X101, "--no-dyhead").num_blocks == 0


def test_an_image_size_replaces_the_canvases_of_the_recipe(settings_of):
    found = settings_of("--recipe", X101, "--image-size", "512")
    assert (found.image_size, found.canvases) == (512, None)


def test_without_a_recipe_the_settings_are_the_defaults(settings_of, dataset):
    assert settings_of() == TrainingSettings(**dataset)


def test_the_error_for_an_unknown_recipe_lists_the_known_ones(dataset, tmp_path):
    result = train(dataset, "--out", tmp_path / "run", "--recipe", "x50")
    assert result.exit_code == 2 and X101 in result.output and "'x50'" in result.output


def test_a_recipe_without_the_weights_it_needs_is_refused_before_anything_is_written(
    dataset, tmp_path
):
    result = train(dataset, "--out", tmp_path / "run", "--recipe", X101)
    assert result.exit_code == 2 and "needs trained weights" in result.output
    assert not (tmp_path / "run").exists()


def test_the_printed_configuration_is_the_one_saved_beside_the_run(dataset, tmp_path, monkeypatch):
    """All settings, the values derived from them, class names and versions."""
    options = ["--batch-size", 2, "--image-size", 64, "--channels", 16, "max_level=5", "epochs=4"]
    options += ["optimizer=sgd", "schedule=step", "base_batch_size=16", "learning_rate=0.01"]
    result = train(dataset, *options, "--print-config")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)

    names = [field.name for field in dataclasses.fields(TrainingSettings)]
    assert list(printed["settings"]) == names
    given = {"batch_size": 2, "image_size": 64, "channels": 16, "max_level": 5, "epochs": 4}
    filled = {
        "backbone": "small",
        "num_blocks": DEFAULT_NUM_BLOCKS,
        "alignment": "paper",
        "eval_every": 1,
    }
    assert given.items() <= printed["settings"].items()
    assert filled.items() <= printed["settings"].items()
    follows = printed["follows"]
    assert (follows["steps_per_epoch"], follows["steps"]) == (1, 4)
    assert follows["peak_learning_rate"] == pytest.approx(0.00125)
    assert (follows["warmup_steps"], follows["milestone_steps"]) == (1, [3, 4])
    assert follows["preprocessing"]["image_size"] == [64, 64]
    assert set(printed["versions"]) == {
        *("keras_dyhead", "keras", "backend", "keras_hub", "tensorflow", "numpy", "python"),
    }

    monkeypatch.setattr(run, "build_detector", lambda *_, **__: None)
    settings = {name: value for name, value in printed["settings"].items() if value is not None}
    run.Training(TrainingSettings(**settings), tmp_path / "run")
    saved = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert saved.pop("val_data") == printed["data"]  # without others to evaluate on
    assert saved == printed


def test_a_setting_given_twice_or_a_missing_folder_is_refused(dataset):
    result = train(dataset, "--epochs", 3, "epochs=4", "--out", "run")
    assert result.exit_code == 2 and "given twice" in result.output and "epochs" in result.output
    result = train(dataset)
    assert result.exit_code == 2 and "--out" in result.output


def test_a_run_prints_its_plan_and_how_to_resume(dataset, tmp_path, monkeypatch):
    """Before it starts, and when it is interrupted. Names are not markup."""
    content = json.loads(dataset["annotations"].read_text())
    content["categories"][0]["name"] = "nut [/s] :smile:"
    content["annotations"][0]["bbox"] = [-3, 0, 9, 9]
    dataset["images"].rename(tmp_path / "photos [old]")
    dataset["images"] = tmp_path / "photos [old]"
    dataset["annotations"].write_text(json.dumps(content))

    def interrupt(self, verbose):
        raise KeyboardInterrupt

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])
    monkeypatch.setattr(run, "build_detector", lambda *_, **__: model)
    monkeypatch.setattr(training.model, "step_memory", lambda *_: 2.34e9)
    monkeypatch.setattr(run.Training, "run", interrupt)
    options = ["--image-size", 64, "--no-dyhead", "--learning-rate", 0.02, "base_batch_size=16"]
    result = train(dataset, "--out", tmp_path / "run", *options, "epochs=40")
    output = " ".join(result.output.split())
    assert "train on 2 images" in output and "Without --val-images or --val-split" in output
    assert "5 classes: nut [/s] :smile:, " in output and "was clipped" in output
    assert "0 DyHead blocks of 64 channels, 20 parameters" in output
    assert "40 epochs of 1 step, 4 images of 64 px each" in output
    assert "a step takes roughly 2.3 GB of memory" in output
    assert "learning rate up to 0.005 for 4 images per update" in output
    assert result.exit_code == 130 and "with --resume to continue" in output


def test_fine_tuning_is_planned_from_the_trained_model(dataset, folder):
    options = ("--weights", folder / "model.keras", "--freeze", "backbone", "--image-size", 64)
    result = train(dataset, *options, "--print-config")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["settings"]["freeze"] == ["backbone"]
    assert printed["follows"]["peak_learning_rate"] == 1e-4
    kept = {"detector": "ATSS", "dtype": "float32", "reinitialized": []}  # the same classes
    assert printed["follows"]["weights"] == kept
    result = train(dataset, "--weights", "atss_r50", "--out", folder / "run")
    assert result.exit_code == 2 and "no published model of that name" in result.output
    result = train(dataset, *options, "--channels", 32, "--print-config")
    assert result.exit_code == 2 and "cannot be changed" in result.output


def test_data_without_boxes_are_refused_before_anything_is_printed(dataset, tmp_path):
    content = json.loads(dataset["annotations"].read_text())
    dataset["annotations"] = tmp_path / "empty.json"
    dataset["annotations"].write_text(json.dumps(content | {"annotations": []}))
    for options in (["--print-config"], ["--out", tmp_path / "run"]):
        result = train(dataset, *options)
        assert result.exit_code == 2 and "has no boxes to train on" in result.output
        assert result.stdout.strip() == ""


def test_the_demo_holds_out_half_and_keeps_its_drawings_with_the_results(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(run.Training, "run", lambda self, verbose: begun.append(self))
    demo = ("demo", "--out", tmp_path / "demo", "--images", 5, "--epochs", 1)
    demo += ("--detector", "fcos", "--no-dyhead")
    assert "train on 3 images" in output_of(*demo)
    train, held_out = (d.annotations for d in (begun[0].train_data, begun[0].val_data))
    assert (len(train.images), len(held_out.images)) == (3, 2)
    assert not {i.path.name for i in train.images} & {i.path.name for i in held_out.images}
    assert train.images[0].path.is_relative_to(tmp_path / "demo")
    output_of(*demo, "--resume")
    drawn = (tmp_path / "demo" / "shapes" / "val" / "instances.json").read_bytes()
    more = demo[:4] + (6,) + demo[5:]
    assert "`images` must be 5, as in the run to resume" in complaint(*more, "--resume")
    assert "seed=0 (now 1)" in complaint(*demo, "--resume", "--seed", 1)
    assert (tmp_path / "demo" / "shapes" / "val" / "instances.json").read_bytes() == drawn
    assert begun[1].epochs_done == 0
    assert "not empty" in complaint(*demo)
    assert "'--images'" in complaint("demo", "--images", 1)
