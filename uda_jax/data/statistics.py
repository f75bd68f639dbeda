"""How often every class occurs in a prepared dataset: counted while it is built, kept beside its records.

`class_statistics.json` lies beside `dataset_info.json`:

    {"classes": [...], "splits": {"train": {"images": 2975, "ignored_pixels": 7, "pixels": {"road": 9, ...},
                                            "images_with": {"road": 2934, ...}}}}

Only labelled splits are in it. Counts are those of the labels as they are stored.
"""

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from uda_jax.errors import UserError

FILENAME = "class_statistics.json"


class Statistics(NamedTuple):
    """Counts over the images of a split, by train id where they are arrays."""

    images: int
    pixels: np.ndarray  # int64 [classes]: pixels of each class
    images_with: np.ndarray  # int64 [classes]: images in which the class occurs
    ignored: int  # pixels without a class

    def shares(self) -> np.ndarray:
        """The share of each class among the pixels that have one, float64 [classes]; zeros if none has."""
        return self.pixels / max(1, self.pixels.sum())


def of_labels(pixels: np.ndarray, ignored: np.ndarray) -> Statistics:
    """The counts of a split whose labels hold int [N, classes] pixels of every class, and int [N] of none."""
    return Statistics(len(pixels), pixels.sum(0), (pixels > 0).sum(0), int(ignored.sum()))


def add(a: Statistics, b: Statistics) -> Statistics:
    return Statistics(a.images + b.images, a.pixels + b.pixels, a.images_with + b.images_with, a.ignored + b.ignored)


def to_json(statistics: Statistics, classes: Sequence[str]) -> dict[str, Any]:
    return {
        "images": statistics.images,
        "ignored_pixels": statistics.ignored,
        "pixels": dict(zip(classes, statistics.pixels.tolist(), strict=True)),
        "images_with": dict(zip(classes, statistics.images_with.tolist(), strict=True)),
    }


def from_json(value: Mapping[str, Any], classes: Sequence[str]) -> Statistics:
    """Undoes `to_json`; raises KeyError for a class that is missing."""
    pixels, images_with = (
        np.array([value[key][name] for name in classes], np.int64) for key in ("pixels", "images_with")
    )
    return Statistics(value["images"], pixels, images_with, value["ignored_pixels"])


def file_text(classes: Sequence[str], splits: Mapping[str, Statistics]) -> str:
    """The content of class_statistics.json."""
    counts = {split: to_json(statistics, classes) for split, statistics in splits.items()}
    return json.dumps({"classes": list(classes), "splits": counts}, indent=1) + "\n"


def from_file_text(text: str) -> dict[str, Statistics]:
    """Split -> counts; raises ValueError, KeyError or TypeError for what `file_text` cannot have written."""
    content = json.loads(text)
    return {split: from_json(value, content["classes"]) for split, value in content["splits"].items()}


def read_statistics(data_dir: str, dataset: str, split: str) -> Statistics:
    """The counts of a labelled split, or of several joined by "+", such as "train+val".

    Raises:
      UserError: no such dataset or split, a slice of one, a split without labels, or no statistics beside it.
    """
    from uda_jax.data import pipeline  # TensorFlow is slow to import, and counting needs none

    path = pipeline.open_builder(data_dir, dataset).data_path / FILENAME
    if not path.is_file():
        raise UserError(f"{path}: not found; {dataset} was built before statistics were kept. Build it again.")
    try:
        splits = from_file_text(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not the file that the build wrote ({error!r}). Build {dataset} again.") from error
    missing = [part for part in split.split("+") if part not in splits]
    if missing:
        raise UserError(
            f"{dataset} has no class statistics of {missing[0]!r} ({path}); it has those of whole, labelled splits: "
            f"{', '.join(sorted(splits)) or 'none'}"
        )
    return reduce(add, (splits[part] for part in split.split("+")))
