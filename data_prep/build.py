"""Prepares a dataset as TFRecords.

  python -m data_prep.build --dataset=streets --out=data --size=256x128
  python -m data_prep.build --dataset=gta5 --raw=DIR --out=data
  python -m data_prep.build --dataset=folders --name=photos --out=data --split train=DIR --split val=DIR

"streets" is drawn here and needs no download. "gta5", "synthia", "cityscapes" and "visda17" are made from their
downloads. "folders" takes your own images: .jpg / .png, and label maps as PNG of train ids (or of what
--label_map says) under the same names. A DIR that holds images/ (and labels/) stands for both.
docs/data.md says more. A build that was interrupted is started again by the same command.
"""

import argparse
import os
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from absl import logging

from data_prep.files import is_folder
from data_prep.pictures import MAX_PIXELS, MAX_SIDE
from data_prep.raw import RAW_SETS
from uda_jax import cli
from uda_jax.errors import UserError
from uda_jax.paths import answering, local, records_dir

Directories = tuple[Path, Path | None, Path | None]  # images, labels, and the one given where both were found in it
MAX_SPLIT = 150  # bytes; the names of its files are longer
# What each kind of dataset understands besides --dataset, --out, --size and --workers.
OPTIONS = {
    "streets": ("train_images", "val_images", "overwrite"),
    "folders": ("name", "split", "label_map", "encoding", "overwrite"),
    "published": ("raw", "split", "encoding", "overwrite", "beam"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status (2: the user can mend it)."""
    args = _parser().parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every configuration that is not built in

    @answering()
    def command() -> None:
        for dataset in _build(args):
            print(cli.printable(summary(args.out, dataset)))

    return cli.answered(command, "interrupted: nothing was kept; the same command starts again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.build",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset", required=True, choices=["streets", *RAW_SETS, "folders"])
    parser.add_argument("--out", required=True, help="the data directory")
    parser.add_argument(
        "--size",
        metavar="WIDTHxHEIGHT",
        help="stored size, or 'full' for images as they are (default: streets 256x128, folders full, else published)",
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", default=None, help="replace the dataset of this name")
    streets = parser.add_argument_group("streets")
    streets.add_argument("--train_images", type=int)
    streets.add_argument("--val_images", type=int)
    files = parser.add_argument_group("published sets and folders")
    files.add_argument("--raw", metavar="DIR", help="where the downloaded archives of a published set are unpacked")
    files.add_argument("--name", help="folders: the dataset will be called folders/NAME")
    files.add_argument(
        "--split",
        action="append",
        default=[],
        metavar="SPLIT=...",
        help="folders: SPLIT=DIR or SPLIT=IMAGES[,LABELS]; published sets: SPLIT=FILE with the ids to take, one a line",
    )
    files.add_argument("--label_map", metavar="FILE", help="folders: YAML of what label files hold, or cityscapes, ...")
    files.add_argument("--encoding", choices=["png", "jpeg"], help="of resized images: png (default) or jpeg, smaller")
    files.add_argument("--beam", metavar="OPTIONS", help="published sets: build with Apache Beam and these options")
    return parser


def _build(args: argparse.Namespace) -> list[str]:
    """Builds what was asked for and returns the names of the datasets written."""
    kind = args.dataset if args.dataset in OPTIONS else "published"
    every = sorted({option for options in OPTIONS.values() for option in options})
    strange = [option for option in every if getattr(args, option) not in (None, []) and option not in OPTIONS[kind]]
    if strange:
        raise UserError(
            f"--{strange[0]} does not go with --dataset={args.dataset}, which takes --{', --'.join(OPTIONS[kind])}"
        )
    if args.workers < 1:
        raise UserError(f"--workers={args.workers} must be at least 1")
    args.out = str(records_dir(args.out, "--out"))
    size = None if args.size in (None, "full") else parse_size(args.size)
    return {"streets": _streets, "folders": _folders, "published": _published}[kind](args, size)


def _streets(args: argparse.Namespace, size: tuple[int, int] | None) -> list[str]:
    from data_prep.streets import builder as streets

    if args.size == "full":
        raise UserError("--size=full: street scenes are drawn at any size; expected WIDTHxHEIGHT, such as 256x128")
    streets.build(args.out, size, args.train_images, args.val_images, args.workers, bool(args.overwrite))
    return ["streets/rendered", "streets/camera"]


def _folders(args: argparse.Namespace, size: tuple[int, int] | None) -> list[str]:
    from data_prep import folders, label_map

    if not args.name or not re.fullmatch(r"\w[\w.-]*", args.name):
        raise UserError(f"--name={args.name}: folders need a name of letters, digits, '_', '-' or '.'")
    folders.build(
        args.out,
        args.name,
        parse_splits(args.split),
        size,
        bool(args.overwrite),
        label_map=label_map.TRAIN_IDS if args.label_map is None else label_map.load(args.label_map),
        encoding=args.encoding or "png",
        workers=args.workers,
    )
    return [f"folders/{args.name}"]


def _published(args: argparse.Namespace, size: tuple[int, int] | None) -> list[str]:
    raw = RAW_SETS[args.dataset]
    root, lists = raw_root(args.raw, raw.name), parse_lists(args.split)
    found = raw.find(root)
    from data_prep import builders

    if lists:
        found = builders.choose(found, lists)
    size = raw.default_size if args.size is None else size
    plan = builders.raw_plan(raw, found, size, args.encoding or "png", args.workers)
    builders.build_raw(args.out, plan, raw.name, bool(args.overwrite), args.beam)
    return [raw.name]


def raw_root(text: str | None, name: str) -> Path:
    """The directory that --raw names."""
    if not text or not is_folder(root := local(text, "--raw")):
        raise UserError(f"--raw={text}: expected the directory where {name} is unpacked; see docs/data.md")
    return root


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) from "WIDTHxHEIGHT"."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None:
        raise UserError(f"--size={text}: expected WIDTHxHEIGHT in pixels, such as 256x128")
    width, height = int(match[1]), int(match[2])
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UserError(f"--size={text}: nothing reads more than {MAX_PIXELS:,} pixels, or {MAX_SIDE:,} in a row")
    return height, width


def parse_lists(texts: Sequence[str]) -> dict[str, Path]:
    """Split -> file of ids from "SPLIT=FILE"."""
    lists: dict[str, Path] = {}
    for text in texts:
        split, equals, file = text.partition("=")
        if not equals or not file:
            raise UserError(f"--split {text}: expected SPLIT=FILE, a text file of ids, such as train=train.txt")
        lists[_new_split(split, lists)] = local(file, f"--split {split}")
    return lists


def parse_splits(texts: Sequence[str]) -> dict[str, Directories]:
    """Split -> its directories from "SPLIT=DIR" or "SPLIT=IMAGES[,LABELS]"."""
    splits: dict[str, Directories] = {}
    for text in texts:
        match = re.fullmatch(r"([^=]*)=([^,]+)(?:,([^,]+))?", text, re.DOTALL)
        if match is None:
            raise UserError(f"--split {text}: expected SPLIT=DIR or SPLIT=IMAGES,LABELS, such as train=photos")
        split, flag = _new_split(match[1], splits), f"--split {match[1]}"
        given = local(match[2], flag)
        if match[3]:
            splits[split] = given, local(match[3], flag), None
        elif is_folder(given / "images"):
            label_maps = given / "labels" if is_folder(given / "labels") else None
            splits[split] = given / "images", label_maps, given
        else:
            splits[split] = given, None, None
    if not splits:
        raise UserError("folders need at least one --split SPLIT=DIR, such as --split train=photos")
    return splits


def _new_split(name: str, known: Collection[str]) -> str:
    """A name that TFDS can store and find again; raises UserError for any other, and for one that is `known`."""
    if not re.fullmatch(r"\w+", name) or not re.search(r"[^\W_]", name) or name.lower() == "all":
        raise UserError(
            f"--split {name}=...: a split is named with letters, digits and '_', with one letter or digit at least, "
            "and not 'all', which stands for all splits together; such as train"
        )
    if len(name.encode()) > MAX_SPLIT:
        raise UserError(f"--split {name}=...: the name is longer than {MAX_SPLIT} bytes, too long for file names")
    if name in known:
        raise UserError(f"--split {name} is given twice; put what belongs to a split into one directory or list")
    return name


def summary(data_dir: str, dataset: str) -> str:
    """What is there now: images of every split, and the pixel share per class of the labelled ones."""
    from uda_jax.data import pipeline
    from uda_jax.data.statistics import FILENAME, read_statistics

    builder = pipeline.open_builder(data_dir, dataset)
    counted = (Path(builder.data_dir) / FILENAME).is_file()  # sets of older versions are not
    published = RAW_SETS[dataset].published if dataset in RAW_SETS else {}
    lines = [f"{dataset} is ready in {builder.data_dir}"]
    for split in builder.info.splits:
        info = pipeline.describe(data_dir, dataset, split)
        missing = published.get(split, 0) - info["count"]
        note = f" of {published[split]} published" if split in published and missing else ""
        lines.append(f"  {split}: {info['count']} images{note}, {'labelled' if info['labelled'] else 'without labels'}")
        if info["labelled"] and counted:
            found = read_statistics(data_dir, dataset, split)
            total = found.pixels.sum() + found.ignored
            named = [*zip(info["classes"], found.pixels, strict=True), ("(ignored)", found.ignored)]
            lines += [f"    {100 * count / total:6.2f} %  {name}" for name, count in named if count]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
