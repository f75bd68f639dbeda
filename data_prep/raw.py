"""The published data sets as they are downloaded: where their files lie, and what their label files mean.

Each is one row of `RAW_SETS`; nothing here writes. docs/data.md shows the directory trees.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import palettes
from data_prep.pictures import grey_ids, pack, read_values, unpack
from uda_jax.data import labels
from uda_jax.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
LABEL_SUFFIXES = (".png",)

Scene = tuple[str, Path, Path | None]  # id, image file, label file


class Files(NamedTuple):
    """The files of one split by id; `labels` is None where the split has none to expect."""

    images: dict[str, Path]
    labels: dict[str, Path] | None


class RawSet(NamedTuple):
    """A published data set.

    published: images of each split, as published.
    locate: root directory -> the files of every split that is there, not yet paired.
    read_label: label file -> the ids stored in it, int32 [H, W].
    to_train_ids: those ids -> (train ids uint8 [H, W], ids that the set does not have, sorted); the latter are 255.
    names: the classes by train id.
    default_size: (height, width) that the published experiments use.
    image_only_splits: splits that may come without labels.
    full_label_splits: splits to be scored on, whose labels are stored as they are, at full size.
    mixed_sizes: a label may be of another size than its image.
    """

    name: str
    published: Mapping[str, int]
    locate: Callable[[Path], dict[str, Files]]
    read_label: Callable[[Path], np.ndarray]
    to_train_ids: Callable[[np.ndarray], tuple[np.ndarray, list[int]]]
    names: tuple[str, ...]
    default_size: tuple[int, int] | None
    image_only_splits: tuple[str, ...] = ()
    full_label_splits: tuple[str, ...] = ()
    mixed_sizes: bool = False

    def find(self, root: Path) -> dict[str, list[Scene]]:
        """The scenes of every split that is there, sorted by id; raises UserError listing what is missing."""
        return {split: pair(files) for split, files in self.locate(Path(root)).items()}


def pair(files: Files) -> list[Scene]:
    """Images with their labels, sorted by id.

    Raises:
      UserError: an image has no label, or a label no image.
    """
    if files.labels is None:
        return [(name, path, None) for name, path in sorted(files.images.items())]
    bare = [str(path) for name, path in files.images.items() if name not in files.labels]
    if bare:
        raise UserError(
            f"{len(bare)} of {len(files.images)} images have no label map:\n{first(bare)}\n"
            "Complete the download (the archives of labels as well as those of images), or remove the images."
        )
    spare = [str(path) for name, path in files.labels.items() if name not in files.images]
    if spare:
        raise UserError(
            f"{len(spare)} of {len(files.labels)} label maps have no image:\n{first(spare)}\n"
            "Complete the download (the archives of images as well as those of labels), or remove the labels."
        )
    return [(name, path, files.labels[name]) for name, path in sorted(files.images.items())]


def first(names: list[str], count: int = 5) -> str:
    """The first names, one an indented line, and how many more there are."""
    more = [f"  ... and {len(names) - count} more"] if len(names) > count else []
    return "\n".join([f"  {name}" for name in names[:count]] + more)


def by_id(*directories: Path, suffixes: tuple[str, ...], ending: str = "", nested: bool = True) -> dict[str, Path]:
    """Id -> file of directories and their subdirectories, sorted by id; hidden files are left out.

    Args:
      suffixes: the extensions to take, in any case.
      ending: what file names end in before the extension; it is not part of the id.
      nested: ids are paths relative to the directory; else they are file names alone.
    Raises:
      UserError: a directory is missing, or two files have one id.
    """
    found: dict[str, Path] = {}
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"no such directory: {directory}")
        for path in sorted(directory.rglob("*")):
            if path.suffix.lower() not in suffixes or path.name.startswith(".") or not path.stem.endswith(ending):
                continue
            if not path.is_file():
                continue
            name = (path.relative_to(directory).with_suffix("").as_posix() if nested else path.stem).removesuffix(
                ending
            )
            if name in found:
                raise UserError(f"two files of one name: {found[name]} and {path}. Remove or rename one.")
            found[name] = path
    return dict(sorted(found.items()))


def pictures_in(directory: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """`by_id` of one directory; raises UserError also where it holds no picture."""
    found = by_id(directory, suffixes=suffixes)
    if not found:
        raise UserError(f"no images found in {directory} (looked for {', '.join(suffixes)}, subdirectories too)")
    return found


def lookup(values: np.ndarray, table: Mapping[int, int], other: int) -> tuple[np.ndarray, list[int]]:
    """Replaces every value by its entry: (int32 of the same shape, values without an entry), those becoming `other`."""
    if not table:
        return np.full_like(values, other), np.unique(values).tolist()
    keys = np.array(sorted(table), np.int32)
    entries = np.array([table[key] for key in keys.tolist()], np.int32)
    at = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    known = keys[at] == values
    return np.where(known, entries[at], other), np.unique(values[~known]).tolist()


def _to_train_ids(values: np.ndarray, table: tuple[labels.Label, ...]) -> tuple[np.ndarray, list[int]]:
    train_ids, unknown = lookup(values, {label.id: label.train_id for label in table}, labels.IGNORE)
    return train_ids.astype(np.uint8), unknown


def _read_label(path: Path, table: str) -> np.ndarray:
    """Ids int32 [H, W]; coloured label pictures are read by the table's colours, classes before ignored ids."""
    found = palettes.settle(path, read_values(path, first_channel=table == "synthia"), palettes.published(table))
    values = found.values
    if not found.colored:
        return values
    rows = sorted(labels.PAINTED[table], key=lambda row: -row.train_id)
    colors = {pack(row.color): row.id for row in rows}
    ids, unknown = lookup(values, colors, labels.IGNORE)
    grey = grey_ids(values) if unknown else None
    if grey is not None:
        return grey
    if unknown:
        some = ", ".join(str(unpack(color)) for color in unknown[:5])
        raise UserError(
            f"{path} is a coloured label picture with {len(unknown)} unknown colours, such as {some}: expected "
            "label ids, or the colours of Cityscapes. Unpack the archives of labels again."
        )
    return ids


def _parts(root: Path, name: str) -> list[Path]:
    """`root`/name, or, where the archives were unpacked side by side, every `root`/*/name."""
    found = (
        [root / name] if (root / name).is_dir() else sorted(path for path in root.glob(f"*/{name}") if path.is_dir())
    )
    if not found:
        raise UserError(f"{root} has no directory {name!r}, nor have its subdirectories. {_LOOK_UP}")
    return found


_LOOK_UP = "docs/data.md shows the tree that is expected; --raw names its root."


def _some(root: Path, files: dict[str, Files]) -> dict[str, Files]:
    """The splits that have images; raises UserError if none has."""
    found = {split: pictures for split, pictures in files.items() if pictures.images}
    if not found:
        raise UserError(f"no images found below {root}. {_LOOK_UP}")
    return found


def _gta5(root: Path) -> dict[str, Files]:
    images = by_id(*_parts(root, "images"), suffixes=IMAGE_SUFFIXES, nested=False)
    return _some(root, {"train": Files(images, by_id(*_parts(root, "labels"), suffixes=LABEL_SUFFIXES, nested=False))})


def _synthia(root: Path) -> dict[str, Files]:
    if (root / "RAND_CITYSCAPES").is_dir():
        root = root / "RAND_CITYSCAPES"
    missing = [name for name in ("RGB", "GT/LABELS") if not (root / name).is_dir()]
    if missing:
        raise UserError(f"{root} has no {' and no '.join(missing)}. {_LOOK_UP}")
    images = by_id(root / "RGB", suffixes=IMAGE_SUFFIXES)
    return _some(root, {"train": Files(images, by_id(root / "GT" / "LABELS", suffixes=LABEL_SUFFIXES))})


def _cityscapes(root: Path) -> dict[str, Files]:
    if not (root / "leftImg8bit").is_dir():
        raise UserError(f"{root} has no leftImg8bit (from leftImg8bit_trainvaltest.zip). {_LOOK_UP}")
    files = {}
    for split in ("train", "val", "test"):
        if not (root / "leftImg8bit" / split).is_dir():
            continue
        images = by_id(root / "leftImg8bit" / split, suffixes=IMAGE_SUFFIXES, ending="_leftImg8bit", nested=False)
        files[split] = Files(images, None if split == "test" else _gt_fine(root, split))
    return _some(root, files)


def _gt_fine(root: Path, split: str) -> dict[str, Path]:
    directory = root / "gtFine" / split
    if not directory.is_dir():
        raise UserError(f"{root} has no gtFine/{split} (from gtFine_trainvaltest.zip). {_LOOK_UP}")
    found = by_id(directory, suffixes=LABEL_SUFFIXES, ending="_gtFine_labelIds", nested=False)
    if not found:
        raise UserError(f"{directory} has no *_gtFine_labelIds.png (other files do not do). {_LOOK_UP}")
    return found


def _visda17(root: Path) -> dict[str, Files]:
    below = [root, root / "test", root / "data" / "test", root / "segmentation" / "data" / "test"]
    places = [(base, base / name) for base in below for name in ("raw_images", "images")]
    place = next((pair for pair in places if pair[1].is_dir()), None)
    if place is None:
        raise UserError(f"{root} has no directory raw_images or images (nor has test/ in it). {_LOOK_UP}")
    maps = place[0] / "labels"
    truth = by_id(maps, suffixes=LABEL_SUFFIXES, nested=False) if maps.is_dir() else None
    return _some(root, {"test": Files(by_id(place[1], suffixes=IMAGE_SUFFIXES, nested=False), truth)})


def _raw_set(
    name: str, published: Mapping[str, int], locate: Callable[[Path], dict[str, Files]], table: str, **fields: Any
) -> RawSet:
    ids = labels.TABLES[table]
    read_label = partial(_read_label, table=table)
    return RawSet(name, published, locate, read_label, partial(_to_train_ids, table=ids), names=labels.NAMES, **fields)


RAW_SETS = {
    raw.name: raw
    for raw in (
        _raw_set("gta5", {"train": 24_966}, _gta5, "gta5", default_size=(720, 1280), mixed_sizes=True),
        _raw_set("synthia", {"train": 9_400}, _synthia, "synthia", default_size=(760, 1280)),
        _raw_set(
            "cityscapes",
            {"train": 2_975, "val": 500, "test": 1_525},
            _cityscapes,
            "cityscapes",
            default_size=(512, 1024),
            image_only_splits=("test",),
            full_label_splits=("val",),
        ),
        _raw_set(
            "visda17",
            {"test": 1_500},
            _visda17,
            "cityscapes",
            default_size=(512, 1024),
            image_only_splits=("test",),
            full_label_splits=("test",),
        ),
    )
}
