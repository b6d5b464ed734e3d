"""Options that several commands share are checked in one place."""

import keras
from cli.commands import complaint


def test_a_file_that_is_not_a_detector_is_named(folder, tmp_path):
    (tmp_path / "x.keras").write_bytes(b"no zip")
    command = ("predict", folder / "photos", "--model")
    told = complaint(*command, tmp_path / "x.keras")
    assert "x.keras is not a model that Keras can load" in told
    keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    told = complaint(*command, tmp_path / "dense.keras")
    assert "dense.keras must contain a keras_dyhead detector. Received: a Sequential" in told
