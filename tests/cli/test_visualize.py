"""`keras-dyhead visualize` reports what it wrote and left out."""

import pytest
from cli.commands import complaint, output_of
from PIL import Image


@pytest.fixture
def arguments(folder):
    return ["visualize", "--model", folder / "model.keras", "--images"]


def test_the_first_images_are_drawn_and_broken_ones_named(arguments, folder, views, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "c.png"):
        Image.open(folder / "photos" / "gray.png").save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "b.jpg").write_bytes(b"no image")
    arguments += [tmp_path / "photos", "--out", tmp_path / "out", "--limit", 2]
    told = output_of(*arguments, "--sampled", 0)
    assert "the first 2 of 3 images" in told and "left out: " in told
    assert "b.jpg is not a readable" in told and "report.html and 3 pictures" in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("a_attention.png", "a_detections.png", "report.html", "scale_weights.png")
    ]


def test_broken_images_alone_are_one_message(arguments, views, tmp_path):
    (tmp_path / "torn.jpg").write_bytes(b"no image")
    told = complaint(*arguments, tmp_path / "torn.jpg", "--out", tmp_path / "out")
    assert "no readable image" in told and not (tmp_path / "out").exists()
