import dataclasses

import keras
import numpy as np
import pytest
import torch
import torch_reference

from convmixer_keras.recipes import CIFAR10_PAPER, DECAYED, DIGITS
from convmixer_keras.training.step.averaging import SwapAverages
from convmixer_keras.training.step.fused import fused_twin
from convmixer_keras.training.step.network import build_model
from convmixer_keras.training.step.optimizer import AdamW, PiecewiseLinear, build_optimizer
from convmixer_keras.training.step.training_model import compile_model


def test_schedule_is_the_authors():
    """Their CIFAR-10 script: np.interp over the epochs that are done after a step."""
    epochs, steps, peak = 25, 97, 0.05
    schedule = PiecewiseLinear(peak, epochs * steps)
    for step in (0, 1, 500, epochs * steps * 2 // 5, 1500, epochs * steps * 4 // 5, epochs * steps - 1):
        expected = np.interp((step + 1) / steps, [0, 10, 20, 25], [0, peak, peak / 20, 0])
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-4, abs=1e-8)
    # The rates that the script prints after epochs 1, 10, 20 and 21.
    for epoch, rate in ((1, 0.005), (10, 0.05), (20, 0.0025), (21, 0.002)):
        assert float(schedule(epoch * steps - 1)) == pytest.approx(rate, rel=1e-4)


def test_the_papers_run_has_the_authors_onecycle():
    """Step by step what their `timm/scheduler/onecycle_lr.py` interpolates; PyTorch's schedule is another."""
    epochs, peak = CIFAR10_PAPER.epochs, CIFAR10_PAPER.learning_rate
    steps = 50_000 // CIFAR10_PAPER.batch_size
    done = (np.arange(epochs * steps) + 1) / steps
    theirs = np.interp(done, [0, epochs * 2 // 5, epochs * 4 // 5, epochs], [0, peak, peak / 20, 0])
    ours = np.array(PiecewiseLinear(peak, epochs * steps)(np.arange(epochs * steps)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-7)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1)
    other = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, 100, anneal_strategy="linear", pct_start=0.4)
    rates = []
    for _ in range(99):
        rates.append(other.get_last_lr()[0])
        optimizer.step()
        other.step()
    assert np.abs(rates - theirs[len(theirs) // 100 :: len(theirs) // 100][:99]).max() > 0.2 * peak


def test_schedule_is_serialisable():
    schedule = PiecewiseLinear(0.1, 50)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert float(restored(7)) == float(schedule(7))


@pytest.mark.parametrize("decayed", ["kernels", "all"])
def test_weight_decay_acts_on_what_the_recipe_says(decayed):
    """With gradients of zero, AdamW multiplies what decays by 1 - rate * decay, and leaves the rest."""
    recipe = dataclasses.replace(DIGITS, weight_decay=0.5, decayed_weights=decayed, learning_rate=0.1)
    model = build_model(recipe, 1, 10)
    optimizer = build_optimizer(recipe, model, total_steps=10)
    before = [v.numpy() for v in model.trainable_variables]
    optimizer.apply(
        [np.zeros(v.shape, np.float32) for v in model.trainable_variables], model.trainable_variables
    )
    rate = 0.1 * 0.1 / 0.4
    for variable, old in zip(model.trainable_variables, before, strict=True):
        kept = 1 - rate * 0.5 if variable.name == "kernel" or decayed == "all" else 1.0
        np.testing.assert_allclose(variable, old * kept, rtol=1e-5)


def official_weights(model):
    """A PyTorch ConvMixer's tensors as NumPy arrays, in the order of Keras' `trainable_variables`."""
    arrays = []
    for name, tensor in model.named_parameters():
        array = tensor.detach().numpy()
        if array.ndim == 4:
            depthwise = array.shape[1] == 1 and ".fn." in name
            array = array.transpose(2, 3, 0, 1) if depthwise else array.transpose(2, 3, 1, 0)
        arrays.append(array.T if array.ndim == 2 else array)
    return arrays


@pytest.mark.parametrize(
    ("sizes", "decayed"),
    [((24, 2, 3, 4), "kernels"), *[pytest.param((32, 3, 5, 2), d, marks=pytest.mark.slow) for d in DECAYED]],
)
def test_twenty_steps_equal_pytorchs(sizes, decayed):
    """The whole recipe on equal weights and batches: AdamW, decay, clipping, schedule, mixed labels."""
    hidden_dim, depth, kernel_size, patch_size = sizes
    steps, batch, classes, peak = 20, 16, 10, 0.01
    random = np.random.default_rng(0)
    images = random.normal(0, 1, (steps, batch, 16, 16, 3)).astype(np.float32)
    labels = random.dirichlet(np.full(classes, 0.1), (steps, batch)).astype(np.float32) * 0.9 + 0.1 / classes

    reference = torch_reference.random_model("official", hidden_dim, depth, kernel_size, patch_size).train()
    with torch.no_grad():
        reference[-1].weight.mul_(10)  # Makes the gradients large enough to be clipped.
    recipe = dataclasses.replace(
        DIGITS,
        image_size=16,
        mean=(0.0,),
        std=(1 / 255,),
        hidden_dim=hidden_dim,
        depth=depth,
        kernel_size=kernel_size,
        patch_size=patch_size,
        learning_rate=peak,
        epsilon=1e-3,
        weight_decay=0.05,
        decayed_weights=decayed,
        clip_norm=1.0,
    )
    model = build_model(recipe, 3, classes)
    twin = fused_twin(model)
    compile_model(twin, build_optimizer(recipe, model, steps), classes)
    for variable, array in zip(model.trainable_variables, official_weights(reference), strict=True):
        variable.assign(array)
    norms = [m for m in reference.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer, norm in zip(layers, norms, strict=True):
        layer.moving_mean.assign(norm.running_mean.numpy())
        layer.moving_variance.assign(norm.running_var.numpy())

    kernels = [p for p in reference.parameters() if p.ndim > 1]
    others = [p for p in reference.parameters() if p.ndim == 1]
    decay_of_others = 0.05 if decayed == "all" else 0.0
    groups = [
        {"params": kernels, "weight_decay": 0.05},
        {"params": others, "weight_decay": decay_of_others},
    ]
    optimizer = torch.optim.AdamW(groups, eps=1e-3)
    clipped = 0
    for step in range(steps):
        rate = np.interp((step + 1) / steps, [0, 0.4, 0.8, 1], [0, peak, peak / 20, 0])
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        logits = reference(torch.tensor(images[step]).permute(0, 3, 1, 2))
        loss = -(torch.tensor(labels[step]) * torch.log_softmax(logits, 1)).sum(1).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
        ours = twin.train_on_batch(images[step], labels[step], return_dict=True)["loss"]
        twin.reset_metrics()
        assert ours == pytest.approx(loss.item(), rel=1e-5)
        clipped += norm.item() > 1
    assert clipped == steps

    for variable, array in zip(model.trainable_variables, official_weights(reference), strict=True):
        np.testing.assert_allclose(variable, array, rtol=1e-3, atol=1e-3 * np.abs(array).max())
    for layer, norm in zip(layers, norms, strict=True):
        for ours, theirs in (
            (layer.moving_mean, norm.running_mean),
            (layer.moving_variance, norm.running_var),
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_adamw_is_serialisable():
    optimizer = AdamW(PiecewiseLinear(0.1, 50), epsilon=1e-3, global_clipnorm=1.0, gradients_are_summed=True)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert restored.get_config() == optimizer.get_config()
    assert isinstance(restored, AdamW)


def test_averages_are_those_of_weights_and_statistics():
    """By hand. The momentum is 0.25, and less in the first steps."""
    recipe = dataclasses.replace(DIGITS, image_size=8, ema_momentum=0.25, hidden_dim=8, depth=2)
    model = build_model(recipe, 1, 10)
    twin = fused_twin(model)
    compile_model(twin, build_optimizer(recipe, twin, 10), 10)
    generator = np.random.default_rng(0)
    expected = None
    for step in range(4):
        images = generator.uniform(0, 255, (6, 8, 8, 1)).astype(np.float32)
        twin.train_on_batch(images, np.eye(10, dtype=np.float32)[:6])
        values = [variable.numpy() for variable, _ in twin.optimizer.averaged]
        kept = min(0.25, (1 + step) / (10 + step)) if step else 0
        expected = [kept * e + (1 - kept) * v for e, v in zip(expected or values, values, strict=True)]
    assert len(expected) == len(model.trainable_variables) + 2 * 5
    for (_, average), value in zip(twin.optimizer.averaged, expected, strict=True):
        np.testing.assert_allclose(average.numpy(), value, rtol=1e-4, atol=1e-6)

    callback = SwapAverages(swap_on_epoch=True)
    callback.set_model(twin)
    callback.on_test_begin()
    for (variable, average), value, last in zip(twin.optimizer.averaged, expected, values, strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(average.numpy(), last)
    callback.on_test_end()
    for (variable, _), last in zip(twin.optimizer.averaged, values, strict=True):
        np.testing.assert_array_equal(variable.numpy(), last)
