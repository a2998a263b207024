import io

import keras
import numpy as np
import pytest
from small_models import build

import convmixer_keras as ck
from convmixer_keras.models import visualization
from convmixer_keras.utils.errors import InputError

COLUMNS = ("loss", "val_loss", "accuracy", "val_accuracy", "learning_rate")


def history(epochs, offset=0.0):
    return [
        {"epoch": e, **{c: e * 0.1 + i + offset for i, c in enumerate(COLUMNS)}} for e in range(1, epochs + 1)
    ]


def test_learning_curves_show_the_history():
    figure = visualization.learning_curves(history(3))
    loss, accuracy, rate = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [0.1, 0.2, 0.3])
    np.testing.assert_allclose(loss.lines[1].get_ydata(), [1.1, 1.2, 1.3])
    np.testing.assert_allclose(accuracy.lines[1].get_ydata(), [310, 320, 330])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [4.1, 4.2, 4.3])


def test_learning_curves_of_several_runs():
    figure = visualization.learning_curves({"short": history(1), "long": history(3, offset=1)})
    loss, accuracy, rate = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [4, 4, 2]
    np.testing.assert_allclose(loss.lines[0].get_ydata(), [0.1])
    np.testing.assert_allclose(loss.lines[3].get_ydata(), [2.1, 2.2, 2.3])
    np.testing.assert_allclose(accuracy.lines[3].get_xdata(), [1, 2, 3])
    assert rate.lines[0].get_color() != rate.lines[1].get_color()
    assert [text.get_text().split(",")[0] for text in figure.legends[0].texts] == ["short", "long"]


@pytest.mark.parametrize("nothing", [[], {}, {"run": []}])
def test_learning_curves_of_nothing(nothing):
    with pytest.raises(InputError, match="at least one"):
        visualization.learning_curves(nothing)


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


def test_image_grid_keeps_the_beginning_of_titles():
    long = "a_rather_long_name_of_a_photograph.jpg\n$10 or $20"
    figure = visualization.image_grid(np.zeros((1, 5, 5, 3)), [long])
    assert figure.axes[0].get_title() == "a_rather_long_name_of_a..." + "\n$10 or $20"
    figure.savefig(io.BytesIO())  # No formula.


def test_image_grid_marks_what_is_wrong_and_sets_the_first_column_apart():
    figure = visualization.image_grid(np.zeros((4, 5, 5, 3)), list("abcd"), columns=2, wrong=[1], apart=True)
    framed = [axes.spines["left"].get_visible() for axes in figure.axes]
    assert framed == [True, True, True, False]
    assert figure.axes[1].title.get_color() == visualization.WRONG
    assert figure.axes[0].title.get_color() == "black"


@pytest.mark.parametrize(("patch_size", "channels"), [(16, 3), (20, 1)])
def test_patch_embeddings_are_the_filters(patch_size, channels):
    model = build(hidden_dim=5, depth=1, patch_size=patch_size, input_shape=(40, 40, channels))
    kernel = model.get_layer("stem_conv").get_weights()[0]
    kernel[..., 3] *= 100
    model.get_layer("stem_conv").set_weights([kernel, np.zeros(5)])
    figure = visualization.patch_embeddings(model, limit=4)
    grid = np.asarray(figure.axes[0].images[0].get_array())
    assert grid.shape[:2] == (2 * patch_size + 3, 2 * patch_size + 3)
    # The strongest comes first, and half brightness is zero.
    expected = 0.5 + kernel[..., 3] / np.abs(kernel[..., 3]).max() / 2
    first = grid[1 : 1 + patch_size, 1 : 1 + patch_size].reshape(expected.shape)
    np.testing.assert_allclose(first, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_small_patches_and_dead_filters_are_drawn(patch_size):
    model = build(hidden_dim=3, depth=1, patch_size=patch_size)
    stem = model.get_layer("stem_conv")
    stem.set_weights([np.zeros_like(w) for w in stem.get_weights()])
    grid = visualization.patch_embeddings(model).axes[0].images[0].get_array()
    assert set(np.unique(grid)) == {0.5, 1.0}


def test_depthwise_kernels_by_depth():
    model = build(depth=5, input_shape=(30, 30, 3))
    figure = visualization.depthwise_kernels(model, kernels=3, rows=3)
    rows = np.reshape(figure.axes[:12], (3, 4))  # Two colour keys follow.
    assert [axes.get_ylabel() for axes in rows[:, 0]] == ["block 0", "block 2", "block 4"]
    weights = model.get_layer("block2_depthwise").get_weights()[0][..., 0]
    strongest = np.argmax((weights**2).sum((0, 1)))
    kernel = weights[..., strongest]
    np.testing.assert_allclose(rows[1, 0].images[0].get_array(), kernel / np.abs(kernel).max(), rtol=1e-6)
    assert rows[2, 3].get_ylabel().endswith("at most 123 px")  # 3 * (1 + 5 * 8)
    assert rows[2, 3].images[0].get_array().shape == (30, 30)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: visualization.patch_embeddings(model, limit=0), "limit must be a positive"),
        (lambda model: visualization.depthwise_kernels(model, kernels=0), "kernels must be a positive"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(InputError, match=message):
        call(build())


def test_other_models_are_refused():
    inputs = keras.Input((8, 8, 3))
    other = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    for draw in (visualization.patch_embeddings, visualization.depthwise_kernels):
        with pytest.raises(InputError, match="not a ConvMixer"):
            draw(other)
    with pytest.raises(InputError, match="1 or 3 channels"):
        visualization.patch_embeddings(ck.ConvMixer(4, 1, 3, 2, input_shape=(8, 8, 5)))
