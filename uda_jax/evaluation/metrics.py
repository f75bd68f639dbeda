"""Confusion matrix and intersection over union."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from uda_jax.data.labels import IGNORE


def confusion_matrix(labels: jax.Array, predictions: jax.Array, num_classes: int) -> jax.Array:
    """Counts of (truth, prediction) pairs, int32 [classes, classes]: rows are truth, columns prediction.

    Args:
      labels: train ids, int [...]; ids outside 0..classes-1 (255 among them) are not counted.
      predictions: int [...], in 0..classes-1.
    """
    valid = (labels >= 0) & (labels < num_classes) & (labels != IGNORE)
    cell = jnp.where(valid, labels * num_classes + predictions, num_classes**2)
    counts = jnp.bincount(cell.ravel(), length=num_classes**2 + 1)[:-1]
    return counts.reshape(num_classes, num_classes)


def iou_per_class(confusion: np.ndarray) -> np.ndarray:
    """diag / (row + column - diag), float64 [classes]; NaN for a class that is neither true nor predicted."""
    confusion = np.asarray(confusion, np.float64)
    hit = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - hit
    with np.errstate(invalid="ignore", divide="ignore"):
        return hit / union


def described(confusion: np.ndarray, names: Sequence[str], classes: Sequence[int] = ()) -> dict[str, Any]:
    """The part of evaluation.json that a confusion matrix says, as JSON has it; `classes` as of `mean_iou`."""
    iou = iou_per_class(confusion)
    return {
        "miou": mean_iou(confusion, classes),
        "iou": {name: None if np.isnan(v) else float(v) for name, v in zip(names, iou, strict=True)},
        "scored": [names[i] for i in classes or np.flatnonzero(~np.isnan(iou)).tolist()],
        "confusion": confusion.tolist(),
        "classes": list(names),
    }


def mean_iou(confusion: np.ndarray, classes: Sequence[int] = ()) -> float:
    """Mean IoU; NaN if nothing was scored.

    Args:
      confusion: [classes, classes].
      classes: train ids to average over; () means the classes that are neither absent from truth nor from
        prediction, which is the published nanmean.
    """
    iou = iou_per_class(confusion)
    iou = iou[list(classes)] if classes else iou
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")
