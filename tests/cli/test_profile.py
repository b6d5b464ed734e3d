"""`keras-dyhead profile` measures what it is asked for, and writes it where it belongs."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from keras_dyhead import profiling
from keras_dyhead.cli import app
from keras_dyhead.detectors import DETECTORS


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
