"""A dataset as large as COCO train2017 in bounded memory."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

IMAGES, FILES = 118_287, 500


def write_annotations(folder):
    """As many images, boxes and polygons as train2017, using a few small files."""
    rng = np.random.default_rng(0)
    sizes = [(24, 32) if number % 4 else (32, 24) for number in range(FILES)]
    for number, size in enumerate(sizes):
        noise = rng.integers(0, 255, (*size, 3), dtype="uint8")
        Image.fromarray(noise).save(folder / f"{number:012d}.jpg")
    polygons = [[rng.uniform(0, 600, 52).round(2).tolist()] for _ in range(100)]
    images, annotations = [], []
    for number in range(IMAGES):
        height, width = sizes[number % FILES]
        name = f"{number % FILES:012d}.jpg"
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        for _ in range(rng.poisson(7.27)):
            left, top = rng.uniform(0, 16, 2).round(2).tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": int(rng.integers(1, 81)),
                    "bbox": [left, top, 7.5, 7.25],
                    "area": 40.5,
                    "iscrowd": 0,
                    "segmentation": polygons[len(annotations) % 100],
                }
            )
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 81)]
    path = folder / "instances.json"
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of the process from /proc")
def test_memory_stays_flat_over_an_epoch_of_coco(tmp_path):
    path = write_annotations(tmp_path)
    assert path.stat().st_size > 350e6
    command = [sys.executable, "-m", "coco.stream_images", tmp_path, path]
    tests = pathlib.Path(__file__).parents[1]
    output = subprocess.run(command, cwd=tests, capture_output=True, text=True, check=True).stdout
    result = json.loads(output.splitlines()[-1])
    print(result)
    assert result["images"] == IMAGES
    assert result["opened"] - result["before"] < 800
    assert result["peak"] - result["before"] < 1500
    # It only grows to what the threads need at most.
    assert max(result["streaming"]) - result["opened"] < 300
    later = result["streaming"][len(result["streaming"]) // 2 :]
    assert max(later) - min(later) < 20
