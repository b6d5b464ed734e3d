"""Datasets feed every backend, and all ways of evaluation give the same figures."""

import keras
import numpy as np
import pytest
from backend import to_numpy
from detectors.scenes import SMALL, small_backbone

from keras_dyhead.coco import (
    METRIC_NAMES,
    SHAPES,
    CocoAnnotations,
    CocoDataset,
    CocoEvaluation,
    draw_shapes,
    evaluate_coco,
    load_coco,
)
from keras_dyhead.detectors import DetectionDecoder, DetectionPreprocessor
from keras_dyhead.inference import image_detector

SIZE = (64, 64)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    path = draw_shapes(folder, 4, 64, size_range=(20, 40), empty_fraction=0)
    return CocoAnnotations(path, folder / "images")


def test_both_data_sets_train_and_all_evaluations_agree(drawn):
    small = SMALL["atss"]
    preprocessor = DetectionPreprocessor(image_size=SIZE)
    model = small.detector(
        small_backbone(),
        len(SHAPES),
        **small.parts(num_blocks=0) | small.arguments,
        image_shape=(*SIZE, 3),
        preprocessor=preprocessor,
        decoder=DetectionDecoder(score_threshold=0.0, max_detections=20),
    )
    folder = drawn.images[0].path.parent
    options = {"batch_size": 2, "image_size": SIZE, "preprocessor": preprocessor}
    val = CocoDataset(folder, drawn, **options)
    results = []
    evaluation = CocoEvaluation(val, on_result=lambda epoch, result: results.append(result))
    model.compile(keras.optimizers.SGD(1e-3))
    for load in (CocoDataset, load_coco):
        train = load(folder, drawn, training=True, seed=0, **options)
        history = model.fit(train, shuffle=False, callbacks=[evaluation], verbose=0).history
        assert np.isfinite(history["loss"]).all()
        assert {f"val_{name}" for name in METRIC_NAMES} <= history.keys()
    assert model.class_names == SHAPES  # those of the data

    in_fit = results[-1].figures
    assert history["val_AP"][-1] == in_fit["AP"] and len(results[-1].detections) > 20
    tensors = load_coco(folder, drawn, **options)
    by_image = evaluate_coco(image_detector(model), drawn, verbose=0)
    # JPEG files have two decoders.
    for figures in (evaluate_coco(model, tensors, verbose=0).figures, by_image.figures):
        assert to_numpy(list(figures.values())) == pytest.approx(list(in_fit.values()), abs=0.02)
