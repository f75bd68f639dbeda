"""The embedded street scenes as a TFDS dataset: "streets/rendered" and "streets/camera"."""

import dataclasses
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep.builders import CountedBuilder
from data_prep.features import example, features, metadata
from data_prep.prepare import in_parallel
from uda_jax.data import labels, statistics
from uda_jax.data.streets import generate

SPLITS = ("train", "val")
SHARDS = 4
VAL_SEEDS = 1_000_000  # train counts up from 0 and val from here, so no scene is in both


@dataclasses.dataclass
class StreetsConfig(tfds.core.BuilderConfig):
    """A domain (the config's name), the size of its pictures and how many there are."""

    size: tuple[int, int] = (128, 256)  # height, width
    train_images: int = 300
    val_images: int = 100
    workers: int | None = None  # processes that draw; None: one a core


DESCRIPTIONS = {
    "rendered": "Street scenes with the look of a game engine.",
    "camera": "Street scenes with the look of a car's camera.",
}


class Streets(CountedBuilder):
    """Procedural street scenes with exact labels, drawn on the spot; nothing is downloaded.

    There are no BUILDER_CONFIGS: TFDS refuses to change the size or count of a config that it knows by name.
    """

    name = "streets"

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Procedural street scenes in the 19 Cityscapes classes, in two domains.",
            features=features(),
            metadata=metadata(dict.fromkeys(SPLITS, True)),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        config = self.builder_config
        count = config.train_images if split == "train" else config.val_images
        first = 0 if split == "train" else VAL_SEEDS
        scenes = draw(config.name, range(first, first + count), config.size, config.workers)
        for k, (image, label) in enumerate(scenes):
            name = f"{split}_{k:06d}"
            before = self.statistics.get(split, statistics.empty(labels.NUM_CLASSES))
            self.statistics[split] = statistics.add(before, statistics.of_label(label, labels.NUM_CLASSES))
            yield name, example(name, image, label)


def draw(
    domain: str, seeds: range, size: tuple[int, int], workers: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the (image, label) of each seed in order, drawn by `workers` processes (None: one a core)."""
    yield from in_parallel(partial(generate, domain, size=size), seeds, workers or os.cpu_count() or 1)


def build(
    out: str | Path,
    size: tuple[int, int] = (128, 256),
    train_images: int = 300,
    val_images: int = 100,
    workers: int | None = None,
) -> None:
    """Writes both domains as TFRecords below `out`/streets; what exists already is left as it is.

    Args:
      out: the data directory.
      size: (height, width) of the pictures.
      train_images: scenes in the split "train" of each domain.
      val_images: scenes in its split "val".
      workers: processes that draw; None means one a core.
    """
    how = tfds.download.DownloadConfig(num_shards=SHARDS, try_download_gcs=False)
    for domain, description in DESCRIPTIONS.items():
        config = StreetsConfig(
            name=domain,
            description=description,
            size=(size[0], size[1]),
            train_images=train_images,
            val_images=val_images,
            workers=workers,
        )
        builder = Streets(data_dir=os.fspath(out), config=config, file_format="tfrecord")
        builder.download_and_prepare(download_config=how)
