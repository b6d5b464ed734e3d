"""DyHead is found, recorded and drawn inside KerasCV's and KerasHub's models."""

import keras
import numpy as np
import pytest
from integrations import tiny_detectors
from small_detector import move_weights, picture

from keras_dyhead.visualization import plot_attention, plot_sampling, plot_scale_weights
from keras_dyhead.visualization.view import find_neck, look_inside

pytest.importorskip("keras_cv")

# The output of DyHead, from the parts of each host.
REFINED = {
    "keras_cv_retinanet": lambda model, x: model.feature_pyramid(model.feature_extractor(x)),
    "keras_cv_yolov8": lambda model, x: model.neck(
        keras.Model(model.inputs, model.get_layer("dyhead_between").input)(x)
    ),
    "keras_hub_retinanet": lambda model, x: model.backbone(x),
}


@pytest.fixture(scope="module", params=list(tiny_detectors.COMPOSITIONS))
def composition(request):
    keras.utils.set_random_seed(0)
    model = tiny_detectors.COMPOSITIONS[request.param]()
    move_weights(find_neck(model))
    return request.param, model


def test_the_record_ends_with_the_output_of_dyhead(composition):
    name, model = composition
    image = picture(64, 64)
    view = look_inside(model, image)
    assert view.levels == ["P3", "P4", "P5"] and view.strides[0] == (8, 8)
    refined = REFINED[name](model, image[None].astype("float32"))
    refined = refined.values() if isinstance(refined, dict) else refined
    for found, expected in zip(view.blocks[-1].norms["task"], refined, strict=True):
        expected = np.linalg.norm(np.asarray(expected)[0], axis=-1)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_all_plots_work_for_a_backbone_alone():
    model, image = tiny_detectors.keras_hub_backbone(), picture(48, 64)  # fitted into 64 x 64
    attention = plot_attention(model, image)
    maps = [axis.images[-1].get_array() for axis in attention.axes if len(axis.images) == 2]
    assert [x.shape for x in maps] == [(8, 8), (4, 4), (2, 2)] * 4
    sampling = plot_sampling(model, image, (30, 20), "P4")
    titles = [axis.get_title().split("\n")[0] for axis in sampling.axes]
    assert titles == ["cell of P4", "P3 (finer)", "P4 (same)", "P5 (coarser)"]
    assert "1 image" in plot_scale_weights(model, [image]).get_suptitle()
