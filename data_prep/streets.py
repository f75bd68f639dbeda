"""The embedded street scenes as a TFDS dataset: "streets/rendered" and "streets/camera"."""

import dataclasses
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_prep.features import example, features, metadata
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


class Streets(tfds.core.GeneratorBasedBuilder):
    """Procedural street scenes with exact labels, drawn on the spot; nothing is downloaded.

    There are no BUILDER_CONFIGS: TFDS refuses to change the size or count of a config that it knows by name.
    """

    name = "streets"
    VERSION = tfds.core.Version("1.0.0")
    url_infos = None  # nothing is downloaded (and TFDS 4.9.10 needs importlib_resources to look for checksums)

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
            yield name, example(name, image, label)


def draw(
    domain: str, seeds: range, size: tuple[int, int], workers: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the (image, label) of each seed in order, drawn by `workers` processes (None: one a core)."""
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        yield from (generate(domain, seed, size) for seed in seeds)
        return
    # "spawn": a forked child would inherit TensorFlow's threads in an unknown state.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context) as pool:
        yield from pool.map(generate, repeat(domain), seeds, repeat(size), chunksize=8)


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
    how = tfds.download.DownloadConfig(num_shards=SHARDS)
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
