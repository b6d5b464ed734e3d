"""A COCO dataset under `tf.distribute`, on two devices."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

COUNT = 11


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    records = []
    for number in range(COUNT):
        height, width = (24, 16) if number % 3 == 0 else (16, 24)
        name = f"{number}.png"
        Image.fromarray(np.full((height, width, 3), 9 * number, "uint8")).save(folder / name)
        records.append({"id": number + 1, "file_name": name, "height": height, "width": width})
    content = {"images": records, "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    command = [sys.executable, "-m", "coco.two_devices", folder, folder / "instances.json"]
    tests = pathlib.Path(__file__).parents[1]
    process = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("canvases", ["one canvas", "two canvases"])
def test_every_image_goes_to_one_device_once_per_epoch_and_a_step_has_one_canvas(result, canvases):
    orders = []
    for epoch in result[canvases]:
        ids = [image_id for step in epoch for ids, _ in step for image_id in ids]
        assert sorted(ids) == list(range(1, COUNT + 1))
        for step in epoch:
            assert len(step) == 2 and step[0][1] == step[1][1]
            assert 1 <= sum(len(ids) for ids, _ in step) <= 4
        orders.append(ids)
    assert orders[0] != orders[1]


def test_full_batches_are_halved(result):
    assert [[len(ids) for ids, _ in step] for step in result["one canvas"][0]] == [
        [2, 2],
        [2, 2],
        [2, 1],
    ]


def test_epochs_follow_fit_if_a_callback_sets_them(result):
    assert result["fit"] == {"begun": [0, 1], "advanced": [1, 2]}
