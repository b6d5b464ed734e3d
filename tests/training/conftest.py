"""A drawn dataset, and settings for a small model."""

import pytest


@pytest.fixture(scope="package")
def data(tmp_path_factory):
    from keras_dyhead.coco import draw_shapes

    folder = tmp_path_factory.mktemp("shapes")
    draw_shapes(folder, 6, image_size=64, empty_fraction=0)
    return {"images": folder / "images", "annotations": folder / "instances.json"}


@pytest.fixture
def tiny(data):
    """Returns settings of a small training, with some changes."""
    from keras_dyhead.training import TrainingSettings

    def tiny(**changes):
        small = {"batch_size": 2, "image_size": 64, "channels": 16, "max_level": 5}
        small |= {"detector": "retinanet", "num_blocks": 0}
        return TrainingSettings(**data | small | changes)

    return tiny
