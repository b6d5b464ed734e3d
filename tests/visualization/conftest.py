"""One view inside the small detector for all plots."""

import pytest


@pytest.fixture(scope="session")
def view(small_model):
    from small_detector import picture

    from keras_dyhead.visualization.view import look_inside

    return look_inside(small_model, picture(100, 130))
