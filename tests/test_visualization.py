import numpy as np
import pytest

from convmixer_keras import visualization


def test_learning_curves_show_the_history():
    columns = ("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate")
    history = [{"epoch": e, **{c: e * 0.1 + i for i, c in enumerate(columns)}} for e in (1, 2, 3)]
    figure = visualization.learning_curves(history)
    loss, accuracy, rate = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [1.1, 1.2, 1.3])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [310, 320, 330])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [4.1, 4.2, 4.3])


@pytest.mark.parametrize("count", [1, 8, 11])
@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_shows_each_image(count, channels):
    images = np.random.default_rng(0).uniform(-50, 300, (count, 5, 4, channels))
    figure = visualization.image_grid(images, [str(i) for i in range(count)])
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == [str(i) for i in range(count)]
    expected = np.clip(images[-1], 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(
        np.asarray(shown[-1].images[0].get_array()).reshape(5, 4, channels), expected
    )
