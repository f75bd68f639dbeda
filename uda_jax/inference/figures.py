"""Pictures of scores: what is taken for what, and how sure a model is when it is right."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from uda_jax.evaluation.calibration import expected_error
from uda_jax.reporting.figures import INK, label_colors


def confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Shares of each true class, a row, that were taken for each class, a column; classes without pixels are left out.

    Args:
      counts: int [classes, classes], rows truth.
    """
    counts = np.asarray(counts, float)
    kept = np.flatnonzero(counts.sum(1) + counts.sum(0))
    shares = counts[np.ix_(kept, kept)] / np.maximum(counts[kept].sum(1, keepdims=True), 1)
    names, side = [classes[i] for i in kept.tolist()], 2.5 + 0.42 * len(kept)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i, j in np.argwhere(shares >= 0.005):
        color = "white" if shares[i, j] > 0.5 else INK
        axes.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true; rows sum to 100 %")
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    return figure


def reliability(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Share of right pixels over confidence for each model, shares of pixels below; the diagonal is calibrated."""
    figure = Figure(figsize=(5.5, 6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    colors = label_colors(list(results))
    above.plot([0, 1], [0, 1], color="#999999", linewidth=1)
    for label, result in results.items():
        counts = np.asarray(result["calibration"])
        pixels, sure, right = counts[counts[:, 0] > 0].T
        name = f"{label}: {100 * expected_error(counts):.1f} % off"
        above.plot(sure / pixels, right / pixels, marker="o", markersize=3, color=colors[label], label=name)
        below.plot(sure / pixels, pixels / pixels.sum(), color=colors[label], drawstyle="steps-mid")
    above.set_ylabel("share of right pixels")
    above.legend(frameon=False, fontsize=9)
    below.set_ylabel("share of pixels")
    below.set_xlabel("confidence (softmax of the class chosen)")
    return figure


def png(figure: Figure) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    return drawn.getvalue()
