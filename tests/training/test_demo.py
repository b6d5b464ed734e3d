"""The demo draws its own dataset."""

import pytest

from keras_dyhead.training.demo import demo_training


def test_the_demo_holds_out_half_and_keeps_its_drawings_with_the_results(tmp_path):
    small = {"num_images": 5, "epochs": 1, "detector": "fcos", "num_blocks": 0}
    training = demo_training(tmp_path / "demo", **small)
    train, held_out = training.train_data.annotations, training.val_data.annotations
    assert (len(train.images), len(held_out.images)) == (3, 2)
    assert not {image.path.name for image in train.images} & {
        image.path.name for image in held_out.images
    }
    assert train.images[0].path.is_relative_to(tmp_path / "demo")
    assert demo_training(tmp_path / "demo", **small, resume=True).epochs_done == 0
    with pytest.raises(ValueError, match="not empty"):
        demo_training(tmp_path / "demo", **small)
    with pytest.raises(ValueError, match="at least 2. Received: num_images=1"):
        demo_training(tmp_path / "other", num_images=1)
