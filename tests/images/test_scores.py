"""How good predictions are, held against scikit-learn, and ties and NaN."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from convmixer_keras.images.class_names import decode_predictions, imagenet_classes, is_same_class
from convmixer_keras.images.scores import best, scores_of, shows_top5
from convmixer_keras.utils.errors import InputError


def test_scores_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.ones(9), 200)
    labels = random.integers(0, 9, 200)
    found = scores_of([(probabilities[:150], labels[:150]), (probabilities[150:], labels[150:])])
    assert found.loss == pytest.approx(log_loss(labels, probabilities, labels=range(9)))
    assert found.top1 == accuracy_score(labels, probabilities.argmax(1))
    assert found.top5 == pytest.approx(top_k_accuracy_score(labels, probabilities, k=5))
    assert found.images == 200
    expected = confusion_matrix(labels, probabilities.argmax(1), labels=range(9))
    np.testing.assert_array_equal(found.confusion, expected)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_classes(label):
    with pytest.raises(InputError, match=f"labels must be from 0 to 2, got {label}"):
        scores_of([(np.full((2, 3), 1 / 3), np.array([0, label]))])


@pytest.mark.parametrize("labels", [np.zeros((2, 1), int), np.zeros(2), np.zeros(3, int), np.array(0)])
def test_labels_that_are_not_an_integer_for_each_image(labels):
    with pytest.raises(InputError, match=r"labels must be 2 integers, got (int|float)64 of shape \("):
        scores_of([(np.full((2, 3), 1 / 3), labels)])
    assert scores_of([(np.eye(3), [0, 1, 2])]).top1 == 1  # A list will do.


def test_no_images():
    for batches in ([], [(np.zeros((0, 3)), np.zeros(0, int))]):
        with pytest.raises(InputError, match="there are no images to evaluate on"):
            scores_of(batches)


def test_classes_that_are_not_there_count_in_no_mean():
    """As in scikit-learn, for the classes that are there or were taken for."""
    labels, found = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])
    precision, recall, f1 = scores_of([(np.eye(5)[found], labels)]).of_classes()
    expected = precision_recall_fscore_support(labels, found, labels=[0, 1], zero_division=0)
    for ours, theirs in zip((precision, recall, f1), expected, strict=False):
        np.testing.assert_allclose(ours[:2], theirs)
    assert (precision[2], f1[2]) == (0, 0)  # Taken for once, wrongly.
    assert np.isnan([recall[2], *precision[3:], *recall[3:], *f1[3:]]).all()


def test_a_tie_is_decided_as_argmax_decides_it():
    """Scores in a few steps, as int8 files give them, of which many are equal."""
    random = np.random.default_rng(1)
    scores = random.integers(0, 3, (500, 8)) / 16
    labels = random.integers(0, 8, 500)
    found = scores_of([(scores, labels)])
    assert (
        found.top1
        == accuracy_score(labels, scores.argmax(1))
        < np.mean(scores.max(1) == scores[range(500), labels])
    )
    np.testing.assert_array_equal(best(scores, 1)[:, 0], scores.argmax(1))
    np.testing.assert_array_equal(
        found.confusion, confusion_matrix(labels, scores.argmax(1), labels=range(8))
    )
    named = decode_predictions(scores, top=1, class_names="abcdefgh")
    assert [row[0][1] for row in named] == ["abcdefgh"[i] for i in scores.argmax(1)]


def test_a_constant_model_is_right_for_its_first_classes_only():
    labels = np.arange(10)
    found = scores_of([(np.full((10, 10), 0.1), labels)])
    assert (found.top1, found.top5) == (0.1, 0.5)
    assert found.loss == pytest.approx(np.log(10))


def test_top5_is_shown_where_it_can_be_wrong():
    random = np.random.default_rng(0)
    for classes in (2, 5, 6):
        probabilities = random.dirichlet(np.ones(classes), 50)
        always_right = scores_of([(probabilities, random.integers(0, classes, 50))]).top5 == 1
        assert shows_top5(classes) != always_right


def test_nan_is_an_error():
    for scores in (np.full((2, 3), np.nan), np.array([[0.5, np.nan, 0.5]])):
        with pytest.raises(InputError, match="scores must be numbers, and hold NaN"):
            scores_of([(scores, np.zeros(len(scores), int))])
        with pytest.raises(InputError, match="scores must be numbers, and hold NaN"):
            decode_predictions(scores, class_names="abc")
    with pytest.raises(InputError, match="no images"):
        scores_of([])


def test_whole_numbers_are_ranked_as_numbers():
    assert decode_predictions(np.array([[0, 200, 3]], np.uint8), 2, "abc")[0][0][1] == "b"


def test_names_of_one_class():
    ids = dict(imagenet_classes())
    assert ids["n01440764"] == "tench"
    assert is_same_class("n01440764", "tench")
    assert is_same_class("tench", "n01440764")
    assert is_same_class("n01440764", "n01440764")
    assert is_same_class("gr\u00fcn", "gru\u0308n")
    assert not is_same_class("n01440764", "goldfish")
    assert not is_same_class("cat", "dog")
