"""The report's figures: training curves, IoU per class, strips of pictures.

Each function takes plain data and returns a matplotlib `Figure` (object-oriented API, no pyplot, so no global
state), or None if there is nothing to draw. Colours are those of Okabe and Ito (2008), safe for colour-blind
readers: source-only orange, oracle green, adapted runs the others.
"""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from uda_jax.data import labels
from uda_jax.errors import UserError
from uda_jax.files import AnyPath, entries
from uda_jax.reporting.comparison import ORACLE, SOURCE, Lines, series, spread

ROLE_COLORS = {SOURCE: "#E69F00", ORACLE: "#009E73"}
OTHER_COLORS = ("#0072B2", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
INK, FAINT = "#333333", "#DDDDDD"
MIOU = "eval/miou"
MAX_POINTS = 60  # a mean line is averaged over step intervals if it has more points than this
MAX_STRIPS = 8


def label_colors(names: Sequence[str]) -> dict[str, str]:
    """Hex colour by run label; the order of `names` decides the colours of the adapted runs."""
    others = [name for name in names if name not in ROLE_COLORS]
    cycled = {name: OTHER_COLORS[i % len(OTHER_COLORS)] for i, name in enumerate(others)}
    return {name: ROLE_COLORS.get(name) or cycled[name] for name in names}


def class_colors(classes: Sequence[str]) -> dict[str, str]:
    """Hex colour by class name, as in the sample pictures."""
    palette = labels.palette(classes)
    return {name: "#{:02x}{:02x}{:02x}".format(*palette[i]) for i, name in enumerate(classes)}


def curve_keys(metrics: Mapping[str, Sequence[Lines]]) -> list[str]:
    """Metric names with a panel: the segmenter's losses, the discriminators' losses, then the target mIoU."""
    found = {key for seeds in metrics.values() for lines in seeds for line in lines for key in line}
    losses = {key for key in found if key == "loss" or key.startswith("loss_")}
    adversary = sorted(key for key in losses if _is_discriminator(key))
    # "loss_seg..." comes first: it is the loss that every method has.
    segmenter = sorted(losses - set(adversary), key=lambda key: (not key.startswith("loss_seg"), "aux" in key, key))
    if len(segmenter) > 1:
        segmenter = [key for key in segmenter if key != "loss"]  # the sum of the others
    return [*segmenter, *adversary, *([MIOU] if MIOU in found else [])]


def curves(metrics: Mapping[str, Sequence[Lines]]) -> Figure | None:
    """One panel a metric, one thick line (mean over seeds) a label, thin lines for the seeds.

    Args:
      metrics: for each label, the metrics.jsonl lines of each seed.
    """
    keys = curve_keys(metrics)
    if not keys:
        return None
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.8 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    colors = label_colors(list(metrics))
    for axis, key in zip(axes, keys, strict=False):
        scale = 100 if key == MIOU else 1
        for label, seeds in metrics.items():
            _draw_seeds(axis, [series(lines, key) for lines in seeds], colors[label], scale)
        axis.set_title(_panel_title(key), loc="left", fontsize=10, color=INK)
        axis.set_xlabel("step", fontsize=8, color=INK)
        _plain(axis, grid="y")
    for axis in axes[len(keys) :]:
        axis.set_axis_off()
    handles = [Line2D([], [], color=colors[label], linewidth=2.2, label=label) for label in metrics]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=10)
    return figure


def per_class(ious: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """Horizontal bars: IoU in percent by class, one bar a label, mean over seeds; whiskers are the sample sd.

    Args:
      ious: for each label float [S, R], S seeds and R rows, ratios in 0..1, NaN if the class does not occur.
      names: the R row names; the last one ("mean") is set apart from the classes.
    """
    rows = np.arange(len(names), dtype=float)
    rows[-1] += 0.4
    thickness = 0.82 / len(ious)
    figure = Figure(figsize=(7, 1.0 + len(names) * max(0.3, 0.13 * len(ious))), layout="constrained")
    axis = figure.subplots()
    colors = label_colors(list(ious))
    for i, (label, values) in enumerate(ious.items()):
        stats = [spread(100 * column) for column in values.T]
        at = rows + (i - (len(ious) - 1) / 2) * thickness
        axis.barh(at, [mean for mean, _ in stats], thickness * 0.92, color=colors[label], label=label)
        sd = np.array([np.nan if sd is None else sd for _, sd in stats])
        drawn = np.isfinite(sd)
        means = np.array([mean for mean, _ in stats])
        axis.errorbar(means[drawn], at[drawn], xerr=sd[drawn], fmt="none", ecolor=INK, elinewidth=0.9)
    for row in rows[np.isnan(np.concatenate(list(ious.values()))).all(axis=0)]:
        axis.text(0.5, row, "does not occur", va="center", fontsize=8, color="#767676")
    axis.set_yticks(rows, names, fontsize=9)
    axis.get_yticklabels()[-1].set_fontweight("bold")
    axis.set_ylim(rows[-1] + 0.6, -0.6)
    axis.set_xlim(0, 100)
    axis.set_xlabel("IoU, %", fontsize=9, color=INK)
    _plain(axis, grid="x")
    figure.legend(loc="outside upper left", ncols=len(ious), frameon=False, fontsize=10)
    return figure


def strips(samples: Mapping[str, AnyPath], classes: Sequence[str]) -> Figure | None:
    """Rows are the fixed evaluation images (at most 8); columns are image, truth and each label's prediction.

    Args:
      samples: each label's `samples` directory; a missing one, or a missing picture, leaves empty cells.
      classes: names for the legend.

    Raises:
      UserError: a picture cannot be read.
    """
    names = (path.name for directory in samples.values() for path in entries(directory))
    ids = sorted({name.removesuffix("_image.png") for name in names if name.endswith("_image.png")})
    palette = labels.palette(classes)
    grid = [_strip(samples, name, palette) for name in ids[:MAX_STRIPS]]
    if not grid:
        return None
    titles = ["image", "truth", *samples]
    shape = next(cell.shape for row in grid for cell in row if cell is not None)
    width, height = 2.6, 2.6 * shape[0] / shape[1]  # of a cell, inches
    legend_columns = max(1, int(len(titles) * width / 1.3))
    bottom = 0.15 + 0.22 * -(-(len(classes) + 1) // legend_columns)
    total = (len(titles) * width, 0.3 + len(grid) * (height + 0.05) + bottom)
    figure = Figure(figsize=total)
    box = dict(left=0, right=1, top=1 - 0.3 / total[1], bottom=bottom / total[1], wspace=0.02)
    box["hspace"] = 0.05 / height
    axes = figure.subplots(len(grid), len(titles), squeeze=False, gridspec_kw=box)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=11, color=INK, pad=5)
    for axis, cell in zip(axes.ravel(), (cell for row in grid for cell in row), strict=True):
        _show(axis, cell)
    colors = class_colors(classes) | {"ignored": "#000000"}
    handles = [Patch(facecolor=color, label=name) for name, color in colors.items()]
    figure.legend(handles=handles, loc="lower left", ncols=legend_columns, frameon=False, fontsize=8.5,
                  columnspacing=1.0, handlelength=1.2, handleheight=1.2)  # fmt: skip
    return figure


def _strip(samples: Mapping[str, AnyPath], name: str, palette: np.ndarray) -> list[np.ndarray | None]:
    """One row of cells, uint8 [H, W, 3] each; image and truth come from the first label that has them."""

    def first(kind: str) -> np.ndarray | None:
        found = (d / f"{name}_{kind}.png" for d in samples.values())
        return next((_pixels(path, palette) for path in found if path.is_file()), None)

    predictions = [_pixels(d / f"{name}_prediction.png", palette) for d in samples.values()]
    return [first("image"), first("truth"), *predictions]


def _pixels(path: AnyPath, palette: np.ndarray) -> np.ndarray | None:
    """RGB uint8 [H, W, 3] of a picture, None if there is no such file; grey label maps get the palette [256, 3]."""
    if not path.is_file():
        return None
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as picture:
            if picture.mode == "L" and not path.name.endswith("_image.png"):
                return palette[np.asarray(picture)]
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: not a readable picture ({error}); delete it or run again") from None


def _show(axis: Axes, cell: np.ndarray | None) -> None:
    axis.set_axis_off()
    if cell is None:
        axis.text(0.5, 0.5, "no picture", ha="center", va="center", color="#767676", transform=axis.transAxes)
    else:
        axis.imshow(cell, interpolation="antialiased")


def _is_discriminator(key: str) -> bool:
    return key == "loss_d" or key.startswith("loss_d_")


def _panel_title(key: str) -> str:
    if key == MIOU:
        return "target mIoU, %"
    return f"{'discriminator' if _is_discriminator(key) else 'segmenter'}: {key}"


def _draw_seeds(axis: Axes, seeds: Sequence[tuple[np.ndarray, np.ndarray]], color: str, scale: float) -> None:
    for steps, values in seeds:
        axis.plot(steps, scale * values, color=color, linewidth=0.6, alpha=0.45)
    steps, values = mean_line(seeds)
    marker = "o" if len(steps) <= 20 else None
    axis.plot(steps, scale * values, color=color, linewidth=2, marker=marker, markersize=3.5)


def mean_line(seeds: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over seeds at each step, or over 60 equal step intervals if there are more steps than that.

    Returns:
      Steps and values, float [N] each, N <= 60, without the steps whose values are not finite.
    """
    steps = np.concatenate([steps for steps, _ in seeds])
    values = np.concatenate([values for _, values in seeds])
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    _, group = np.unique(steps, return_inverse=True)
    if len(steps) and group.max() >= MAX_POINTS:
        edges = np.linspace(steps.min(), steps.max(), MAX_POINTS + 1)[1:-1]
        _, group = np.unique(np.searchsorted(edges, steps, side="right"), return_inverse=True)
    counts = np.bincount(group)
    return np.bincount(group, steps) / counts, np.bincount(group, values) / counts


def _plain(axis: Axes, grid: str) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#999999")
    axis.tick_params(colors=INK, labelsize=8, length=0)
    axis.set_axisbelow(True)
    axis.grid(axis=grid, color=FAINT, linewidth=0.7)  # type: ignore[arg-type]
