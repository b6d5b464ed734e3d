"""Training curves show the history."""

from keras_dyhead.visualization.history import plot_history


def test_history_skips_epochs_without_a_value():
    figure = plot_history(
        {"loss": [3.0, 2.0, 1.0], "val_AP50": [None, 0.2, 0.4], "epoch": [1, 2, 3]}
    )
    losses, figures = figure.axes
    assert losses.lines[0].get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert figures.lines[0].get_xydata().tolist() == [[2, 0.2], [3, 0.4]]
    assert len(losses.lines) == len(figures.lines) == 1
