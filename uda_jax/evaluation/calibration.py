"""Whether a segmenter is right as often as it is sure: expected calibration error (Guo et al., ICML 2017)."""

import numpy as np

BINS = 15  # of equal width, as published


def histogram(confidence: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Pixels, sum of confidence and number of right ones by confidence: float64 [BINS, 3].

    Args:
      confidence: softmax of the class chosen, float [N].
      right: whether that class is the true one, bool [N].
    """
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    columns = (None, confidence, right)
    return np.stack([np.bincount(place, weights, BINS) for weights in columns], -1).astype(np.float64)


def expected_error(counts: np.ndarray) -> float:
    """Mean distance of confidence and share of right pixels over all pixels; NaN of none."""
    pixels, confidence, right = counts.T
    return float(np.abs(confidence - right).sum() / pixels.sum()) if pixels.sum() else float("nan")
