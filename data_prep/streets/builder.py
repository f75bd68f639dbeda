"""The embedded street scenes as a TFDS dataset: "streets/rendered" and "streets/camera"."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from data_prep.builders import IndexedBuilder, write
from data_prep.features import example, features, metadata
from data_prep.prepare import in_parallel
from data_prep.streets import generate
from uda_jax.data.pipeline import hide_gpus
from uda_jax.errors import UserError

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


class Streets(IndexedBuilder):
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
        bar = tqdm(scenes, total=count, desc=f"streets/{config.name} {split}", unit=" images")
        for k, (image, label) in enumerate(bar):
            name = f"{split}_{k:06d}"
            yield name, example(name, image, label)


def draw(
    domain: str, seeds: range, size: tuple[int, int], workers: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the (image, label) of each seed in order, drawn by `workers` processes (None: one a core)."""
    yield from in_parallel(partial(generate, domain, size=size), seeds, workers or os.cpu_count() or 1)


def build(
    out: str | Path,
    size: tuple[int, int] | None = None,
    train_images: int | None = None,
    val_images: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Writes both domains as TFRecords below `out`/streets; what exists already is left as it is.

    Args:
      out: the data directory.
      size: (height, width) of the pictures; None: 128x256, or whatever is there.
      train_images: scenes in the split "train" of each domain; None: 300, or whatever is there.
      val_images: scenes in its split "val"; None: 100, or whatever is there.
      workers: processes that draw; None means one a core.
      overwrite: replace what exists.
    Raises:
      UserError: a count below 1, or there are scenes of another size or count and `overwrite` is false.
    """
    for option, count in (("train_images", train_images), ("val_images", val_images)):
        if count is not None and count < 1:
            raise UserError(f"--{option}={count}: expected 1 or more")
    options = {"size": size, "train_images": train_images, "val_images": val_images}
    asked: dict[str, Any] = {option: value for option, value in options.items() if value is not None}
    targets = {domain: Path(out) / "streets" / domain / str(Streets.VERSION) for domain in DESCRIPTIONS}
    wanted = [domain for domain, target in targets.items() if overwrite or not _as_asked(target, asked)]
    for domain in wanted:
        config = StreetsConfig(name=domain, description=DESCRIPTIONS[domain], workers=workers, **asked)
        shards = min(SHARDS, config.train_images, config.val_images)  # TFDS writes no empty one
        write(partial(_builder, config), targets[domain], overwrite, num_shards=shards)


def _builder(config: StreetsConfig, data_dir: str) -> Streets:
    return Streets(data_dir=data_dir, config=config)


def _as_asked(target: Path, asked: Mapping[str, Any]) -> bool:
    """Whether the set is there; raises UserError if it is there and not as `asked`."""
    if not target.exists():
        return False
    there = settings_of(target)
    if all(there[option] == value for option, value in asked.items()):
        return True
    shown = {option: f"{value[1]}x{value[0]}" if option == "size" else value for option, value in asked.items()}
    text = " ".join(f"--{option}={value}" for option, value in shown.items())
    raise UserError(
        f"{target} holds {there['train_images']} train and {there['val_images']} val images of "
        f"{there['size'][1]}x{there['size'][0]}, and {text} was asked for. Give --overwrite to replace them, or "
        "choose another --out."
    )


def settings_of(target: Path) -> dict[str, Any]:
    """The size (height, width) and counts of a set that was built; raises UserError if it is none."""
    hide_gpus()
    try:
        builder = tfds.builder_from_directory(target)
        (scene,) = builder.as_dataset(split="train[:1]").as_numpy_iterator()
        counts = {f"{split}_images": builder.info.splits[split].num_examples for split in SPLITS}
    except Exception as error:  # whatever a directory may hold that is no set
        raise UserError(f"{target} cannot be read ({error}). Give --overwrite to build it again.") from error
    return {"size": tuple(scene["original_size"].tolist()), **counts}
