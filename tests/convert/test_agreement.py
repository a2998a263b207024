"""What counts as the same outputs, each rule with outputs that it must refuse."""

import numpy as np
import pytest

from convmixer_keras.convert import agreement
from convmixer_keras.utils.errors import Failure


def outputs(size=1.0):
    random = np.random.default_rng(0)
    return size * random.normal(size=(8, 50)), size * random.normal(size=(8, 50))


@pytest.mark.parametrize("size", [1e-2, 1.0, 9400.0])
@pytest.mark.parametrize(("mean_tolerance", "right", "wrong"), [(None, 3e-6, 1e-3), (0.97, 0.1, 1.0)])
def test_the_size_of_the_outputs_decides(mean_tolerance, right, wrong, size):
    expected, noise = outputs(size)
    agreement.check(expected + right * noise, expected, "one and other", mean_tolerance=mean_tolerance)
    with pytest.raises(Failure, match="one and other differ by"):
        agreement.check(expected + wrong * noise, expected, "one and other", mean_tolerance=mean_tolerance)


def test_logits_that_name_other_classes_differ_where_their_probabilities_hardly_do():
    expected, _ = outputs(0.02)
    got = -expected
    probabilities = [np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (got, expected)]
    assert np.abs(probabilities[0] - probabilities[1]).max() < 0.01
    with pytest.raises(Failure, match="same top-1 on 0 of 8"):
        agreement.check(got, expected, "one and other")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("mean_tolerance", [None, 0.97])
def test_no_number_agrees_with_nothing(bad, mean_tolerance):
    expected, _ = outputs()
    broken = expected.copy()
    broken[3, 7] = bad
    for got, wanted in ((broken, expected), (expected, broken), (broken, broken)):
        with pytest.raises(Failure, match="NaN or infinite"):
            agreement.check(got, wanted, "one and other", mean_tolerance=mean_tolerance)


def test_outputs_of_another_shape_are_not_stretched_to_fit():
    expected, _ = outputs()
    with pytest.raises(Failure, match=r"different shapes, \(8, 1\) and \(8, 50\)"):
        agreement.check(expected[:, :1], expected, "one and other")


def test_what_it_reports():
    expected = np.array([[1.0, 2.0], [4.0, -5.0]])
    found = agreement.check(expected[:, ::-1] + 0.5, expected, "one and other", tolerance=10)
    assert found == agreement.Agreement(difference=9.5, largest=5.0, same_top1=0, images=2)
    assert str(found) == "largest logit difference 9.50e+00 (largest logit 5), same top-1 on 0 of 2"
    # One logit says yes or no.
    assert agreement.check(expected[:, 1:] + 3, expected[:, 1:], "", tolerance=10).same_top1 == 2
    assert agreement.check(expected[:, 1:] + 6, expected[:, 1:], "", tolerance=10).same_top1 == 1
    assert agreement.check(expected, expected, "", features=True).same_top1 is None


@pytest.mark.parametrize(
    ("classes", "bias"), [(1, -1e4), (1, -1e2), (1, 1e4), (30, -1e5), (50, 1e2), (50, -1e4)]
)
@pytest.mark.parametrize(("mean_tolerance", "wrong"), [(None, 1e-2), (0.97, 1.5)])
def test_a_large_bias_hides_no_difference(classes, bias, mean_tolerance, wrong):
    """Of classes that are ruled out, or of all: the others decide."""
    expected, noise = outputs()
    expected[:, :classes] += bias
    noise = noise.astype(np.float32).astype(np.float64)
    rounded = expected.astype(np.float32)
    agreement.check(rounded, expected, "one and other", mean_tolerance=mean_tolerance)
    with pytest.raises(Failure, match="one and other differ by"):
        agreement.check(expected + wrong * noise, expected, "one and other", mean_tolerance=mean_tolerance)


def test_outputs_that_do_not_depend_on_the_image_say_so():
    constant = np.tile([1.0, 2.0, 0.0], (4, 1))
    found = agreement.check(constant, constant, "")
    assert not found.varies
    assert str(found).endswith("same top-1 on 4 of 4, but these logits are the same for every image")
    assert agreement.check(constant[:1], constant[:1], "").varies  # Of one image nobody knows.
    assert agreement.check(outputs()[0], outputs()[0], "").varies


def test_small_probabilities_are_a_share_of_the_largest():
    expected = np.full((2, 1000), 1e-6)
    expected[:, 3] = 0.999
    agreement.check(expected + 5e-5, expected, "", probabilities=True)
    with pytest.raises(Failure, match="differ by"):
        agreement.check(expected + 5e-4, expected, "", probabilities=True)
