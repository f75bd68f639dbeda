import jax.numpy as jnp
import numpy as np

from uda_jax.evaluation.metrics import confusion_matrix, iou_per_class, mean_iou


def test_confusion_counts_each_valid_pixel_once() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, (2, 5, 6)), rng.integers(0, 4, (2, 5, 6))
    labels[0, 0] = 255
    expected = np.zeros((4, 4), int)
    for t, p in zip(labels.ravel(), predictions.ravel(), strict=True):
        if t != 255:
            expected[t, p] += 1
    np.testing.assert_array_equal(confusion_matrix(jnp.asarray(labels), jnp.asarray(predictions), 4), expected)


def test_absent_and_wrongly_predicted_classes() -> None:
    # class 2 is predicted but never true, class 3 is nowhere
    confusion = np.array([[3, 0, 1, 0], [2, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(iou_per_class(confusion), [3 / 6, 4 / 6, 0, np.nan])
    np.testing.assert_allclose(mean_iou(confusion), (3 / 6 + 4 / 6) / 3)
    np.testing.assert_allclose(mean_iou(confusion, classes=(0, 1)), (3 / 6 + 4 / 6) / 2)


def test_mean_of_nothing_is_nan() -> None:
    assert np.isnan(mean_iou(np.zeros((3, 3))))
