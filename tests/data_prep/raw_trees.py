"""Tiny raw data sets in the directory layouts and encodings of the real ones, drawn by the street generator.

`WRITERS[name](root, count)` writes `count` scenes a split and returns {split: {id: (image, train ids)}}.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from data_prep.streets import generate
from uda_jax.data import labels

SIZE = (32, 64)  # height, width

Written = dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]


@cache
def scene(domain: str, seed: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [H, W, 3] and train ids uint8 [H, W]."""
    return generate(domain, seed, size)


def raw_ids(train_ids: np.ndarray, ids: str, void: int) -> np.ndarray:
    """Train ids -> the ids that a data set stores, uint8 [H, W]; ignored pixels become `void`."""
    table = np.full(256, void, np.uint8)
    for label in labels.TABLES[ids]:
        if not label.ignore:
            table[label.train_id] = label.id
    return table[train_ids]


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def picture(path: Path, seed: int = 0) -> Path:
    """A photograph of the street generator."""
    return save(path, scene("camera", seed)[0])


def truth(path: Path, seed: int = 0) -> Path:
    """Its label map of train ids."""
    return save(path, scene("camera", seed)[1])


def save_palette(path: Path, ids: np.ndarray, table: tuple[labels.Label, ...]) -> Path:
    """A palette PNG, whose indices are the ids."""
    colors = np.zeros((256, 3), np.uint8)
    for label in table:
        colors[label.id] = label.color
    picture = Image.fromarray(ids)
    picture.putpalette(colors.ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def save_16_bit(path: Path, channels: np.ndarray) -> Path:
    """uint16 [H, W, C] as a 16-bit PNG, which Pillow cannot write."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tf.io.encode_png(channels.astype(np.uint16)).numpy())
    return path


def gta5(root: Path, count: int = 3) -> Written:
    """images/00001.png, labels/00001.png: palette PNGs of Cityscapes ids."""
    written = {}
    for number in range(1, count + 1):
        image, label = scene("rendered", number)
        save(root / "images" / f"{number:05}.png", image)
        save_palette(root / "labels" / f"{number:05}.png", raw_ids(label, "gta5", 0), labels.GTA5)
        written[f"{number:05}"] = image, label
    return {"train": written}


def synthia(root: Path, count: int = 3) -> Written:
    """RAND_CITYSCAPES/{RGB,GT/LABELS}/0000000.png; labels are 16-bit RGB: class, instance, 0."""
    written = {}
    for number in range(count):
        image, label = scene("rendered", number)
        name, base = f"{number:07}", root / "RAND_CITYSCAPES"
        save(base / "RGB" / f"{name}.png", image)
        ids = raw_ids(label, "synthia", 22)
        save_16_bit(base / "GT" / "LABELS" / f"{name}.png", np.stack([ids, 257 * (ids == 8), 0 * ids], axis=-1))
        save(base / "GT" / "COLOR" / f"{name}.png", labels.palette()[label])
        written[name] = image, label
    return {"train": written}


def cityscapes(root: Path, count: int = 2) -> Written:
    """leftImg8bit and gtFine with two cities a split; the labels of "test" hold nothing."""
    written: Written = {}
    for at, (split, cities) in enumerate({"train": ("aachen", "ulm"), "val": ("munster",), "test": ("bonn",)}.items()):
        written[split] = {}
        for number in range(count):
            image, label = scene("camera", 10 * at + number)
            name = f"{cities[number % len(cities)]}_{number:06}_000019"
            truth = root / "gtFine" / split / name.split("_")[0]
            save(root / "leftImg8bit" / split / name.split("_")[0] / f"{name}_leftImg8bit.png", image)
            label = np.full_like(label, 255) if split == "test" else label
            ids = raw_ids(label, "cityscapes", 1)
            save(truth / f"{name}_gtFine_labelIds.png", ids)
            save(truth / f"{name}_gtFine_color.png", labels.palette()[label])
            save(truth / f"{name}_gtFine_instanceIds.png", ids.astype(np.uint16) * 1000)
            (truth / f"{name}_gtFine_polygons.json").write_text("{}")
            written[split][name] = image, label
    return written


def visda17(root: Path, count: int = 3, labelled: bool = True) -> Written:
    """raw_images/*.jpg and, if labelled, labels/*.png of Cityscapes ids. The images are the decoded JPEGs."""
    written = {}
    for number in range(count):
        image, label = scene("camera", number)
        name = f"{number:032x}-0000{number}"
        path = save(root / "raw_images" / f"{name}.jpg", image, quality=95)
        if labelled:
            save(root / "labels" / f"{name}.png", raw_ids(label, "cityscapes", 0))
        written[name] = np.asarray(Image.open(path)), label if labelled else np.full_like(label, 255)
    return {"test": written}


WRITERS: dict[str, Callable[..., Written]] = {
    "gta5": gta5,
    "synthia": synthia,
    "cityscapes": cityscapes,
    "visda17": visda17,
}


@contextmanager
def somebody_else() -> Iterator[None]:
    """Root may list anything: be somebody else for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
