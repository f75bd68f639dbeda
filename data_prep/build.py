"""Prepares a dataset as TFRecords.

  python -m data_prep.build --dataset=streets --out=data --size=256x128
  python -m data_prep.build --dataset=folders --name=photos --out=data --split train=DIR --split val=DIR

"streets" is drawn here and needs no download. "folders" takes your own images: .jpg / .png, and label maps as
8-bit PNG of train ids under the same names. A DIR that holds images/ (and labels/) stands for both.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import logging

from uda_jax.data import labels
from uda_jax.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2: the user can mend it)."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every configuration that is not built in
    try:
        for dataset in _build(args):
            print(summary(args.out, dataset))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.build",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, choices=["streets", "folders"])
    parser.add_argument("--out", required=True, help="the data directory")
    parser.add_argument("--size", metavar="WIDTHxHEIGHT", help="stored size (streets: 256x128; folders: as it is)")
    streets = parser.add_argument_group("streets")
    streets.add_argument("--train_images", type=int, default=300)
    streets.add_argument("--val_images", type=int, default=100)
    streets.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    folders = parser.add_argument_group("folders")
    folders.add_argument("--name", help="the dataset will be called folders/NAME")
    folders.add_argument("--split", action="append", default=[], metavar="SPLIT=DIR|IMAGES[,LABELS]")
    folders.add_argument("--overwrite", action="store_true", help="replace a dataset of this name")
    return parser


def _build(args: argparse.Namespace) -> list[str]:
    """Builds what was asked for and returns the names of the datasets written."""
    size = None if args.size is None else parse_size(args.size)
    if args.dataset == "streets":
        from data_prep import streets

        streets.build(
            args.out,
            size=size or (128, 256),
            train_images=args.train_images,
            val_images=args.val_images,
            workers=args.workers,
        )
        return ["streets/rendered", "streets/camera"]
    from data_prep import folders

    if not args.name or not re.fullmatch(r"\w[\w.-]*", args.name):
        raise UserError(f"--name={args.name}: folders need a name of letters, digits, '_', '-' or '.'")
    folders.build(args.out, args.name, parse_splits(args.split), size, args.overwrite)
    return [f"folders/{args.name}"]


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) from "WIDTHxHEIGHT"."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--size={text}: expected WIDTHxHEIGHT in pixels, such as 256x128")
    return int(match[2]), int(match[1])


def parse_splits(texts: Sequence[str]) -> dict[str, tuple[Path, Path | None]]:
    """Split -> (images directory, labels directory or None) from "SPLIT=DIR" or "SPLIT=IMAGES[,LABELS]"."""
    splits: dict[str, tuple[Path, Path | None]] = {}
    for text in texts:
        match = re.fullmatch(r"(\w+)=([^,]+)(?:,([^,]+))?", text)
        if match is None:
            raise UserError(f"--split {text}: expected SPLIT=DIR or SPLIT=IMAGES,LABELS, such as train=photos")
        if match[1] in splits:
            raise UserError(f"--split {match[1]} is given twice; put the images of a split into one directory")
        images, label_maps = Path(match[2]), Path(match[3]) if match[3] else None
        if label_maps is None and (images / "images").is_dir():
            label_maps = images / "labels" if (images / "labels").is_dir() else None
            images = images / "images"
        splits[match[1]] = images, label_maps
    if not splits:
        raise UserError("folders need at least one --split SPLIT=DIR, such as --split train=photos")
    return splits


def summary(data_dir: str, dataset: str) -> str:
    """What is there now: images of every split, and the pixel share per class of the labelled ones."""
    import tensorflow_datasets as tfds

    from uda_jax.data import pipeline

    builder = pipeline.open_builder(data_dir, dataset)
    lines = [f"{dataset} is ready in {builder.data_dir}"]
    for split in builder.info.splits:
        info = pipeline.describe(data_dir, dataset, split)
        lines.append(f"  {split}: {info['count']} images, {'labelled' if info['labelled'] else 'without labels'}")
        if info["labelled"]:
            stored = builder.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
            pixels = np.zeros(256, np.int64)
            for example in tfds.as_numpy(stored):
                pixels += np.bincount(example["label"].ravel(), minlength=256)
            lines += _shares(pixels)
    return "\n".join(lines)


def _shares(pixels: np.ndarray) -> list[str]:
    """Lines of percentages from pixel counts by train id, int [256]."""
    names = {**dict(enumerate(labels.NAMES)), labels.IGNORE: "(ignored)"}
    total = pixels.sum()
    return [f"    {100 * pixels[i] / total:6.2f} %  {name}" for i, name in names.items() if pixels[i]]


if __name__ == "__main__":
    sys.exit(main())
