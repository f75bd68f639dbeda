"""Scores of a finished model on any labelled split, at the size that its labels are stored in."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from uda_jax.data import labels, pipeline
from uda_jax.errors import UserError
from uda_jax.evaluation import calibration
from uda_jax.evaluation.metrics import described
from uda_jax.inference.model import Model
from uda_jax.inference.predictor import Settings, looked_at, predict

# Means over the classes that SYNTHIA has, and over those of them that older tables have: never comparable with the 19.
WITHOUT = {19: (), 16: ("terrain", "truck", "train"), 13: ("wall", "fence", "pole", "terrain", "truck", "train")}


def score(
    model: Model, data_dir: str, dataset: str, split: str, settings: Settings, limit: int = 0, only: Sequence[str] = ()
) -> dict[str, Any]:
    """What a report says of a model, as in evaluation.json, with "means", "calibration" and "ece".

    Args:
      settings: with neither scale nor size, images are brought to the model's own size, as in the run's evaluations.
      limit: score only the first images, 0 for all.
      only: names of the classes that the mean is over; () for those that occur.

    Raises:
      UserError: no such data, or labels of other classes than the model's.
    """
    names = check_classes(model, data_dir, dataset, split, only)
    if settings.scale is None:
        settings = settings._replace(size=settings.size or model.segmenter.size)
    count = pipeline.describe(data_dir, dataset, split)["count"]
    confusion, counts, images = np.zeros((len(names),) * 2, np.int64), np.zeros((calibration.BINS, 3)), 0
    examples = pipeline.stored_examples(data_dir, dataset, split, limit)
    for example in tqdm(examples, total=min(limit or count, count), unit="image", desc=model.path, mininterval=1):
        truth = example["label"]
        (found,) = predict(model.segmenter, [example["image"]], settings, sizes=[truth.shape], confidence=True)
        assert found.confidence is not None
        valid = truth != labels.IGNORE
        pairs = truth[valid] * len(names) + found.train_ids[valid]
        confusion += np.bincount(pairs, minlength=len(names) ** 2).reshape(confusion.shape)
        counts += calibration.histogram(found.confidence[valid], found.train_ids[valid] == truth[valid])
        images += 1
    size = looked_at(example["image"].shape[:2], model.segmenter.size, settings)
    measured = described(confusion, names, [names.index(name) for name in only])
    return {
        "checkpoint": model.path,
        "step": model.about.get("step"),
        "dataset": dataset,
        "split": split,
        "images": images,
        "settings": {**settings._asdict(), "looked_at": size},
        **measured,
        "means": means(measured["iou"]),
        "ece": calibration.expected_error(counts),
        "calibration": counts.tolist(),
    }


def check_classes(model: Model, data_dir: str, dataset: str, split: str, only: Sequence[str] = ()) -> list[str]:
    """The classes by train id; raises UserError unless model and labels have the same, `only` among them."""
    info = pipeline.describe(data_dir, dataset, split)
    names, theirs = list(model.segmenter.classes), list(info["classes"])
    if not info["labelled"]:
        raise UserError(f"{dataset} has no labels in its split {split!r}, so nothing can be scored on it")
    if names != theirs:
        raise UserError(
            f"{model.path} knows {len(names)} classes ({', '.join(names)}), but {dataset} has {len(theirs)} "
            f"({', '.join(theirs)}); build it with a label map to the model's classes, in their order"
        )
    unknown = [name for name in only if name not in names]
    if unknown:
        raise UserError(f"--only: {unknown[0]!r} is none of the classes, {', '.join(names)}")
    return names


def means(iou: Mapping[str, float | None]) -> dict[str, float | None]:
    """The published means, "mIoU-19" and so on, where the classes are Cityscapes'; each over those that occur."""
    if tuple(iou) != labels.NAMES:
        return {}
    found: dict[str, float | None] = {}
    for count, without in WITHOUT.items():
        values = [value for name, value in iou.items() if name not in without and value is not None]
        found[f"mIoU-{count}"] = float(np.mean(values)) if values else None
    return found


def rows(results: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A header, the size that images were looked at, a row a class, the means and the calibration error.

    Ratios are in percent, "-" for what does not occur.
    """

    def row(name: str, values: Sequence[float | None]) -> list[str]:
        return [name, *("-" if value is None or np.isnan(value) else f"{100 * value:.1f}" for value in values)]

    every = list(results.values())
    sizes = [result["settings"]["looked_at"] for result in every]
    grid = [["class", *results], ["looked at", *(f"{width}x{height}" for height, width in sizes)]]
    grid += [row(name, [result["iou"][name] for result in every]) for name in every[0]["classes"]]
    grid += [row(f"mean of {len(every[0]['scored'])}", [result["miou"] for result in every])]
    grid += [row(name, [result["means"][name] for result in every]) for name in every[0]["means"]]
    return [*grid, row("calibration error", [result["ece"] for result in every])]


def as_csv(grid: Sequence[Sequence[str]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(grid)
    return written.getvalue()
