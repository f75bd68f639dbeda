"""The published data sets as they are downloaded: where their files lie, and what their label files mean.

Each is one row of `RAW_SETS`; nothing here writes. docs/data.md shows the directory trees.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_prep import label_map, left_out
from data_prep.files import (
    IMAGE_SUFFIXES,
    LABEL_SUFFIXES,
    PICTURES,
    Files,
    Found,
    Scene,
    by_id,
    files_of,
    is_folder,
    is_hidden,
    may_be_folder,
    pair,
    unknown,
)
from data_prep.label_map import LabelMap, lookup
from data_prep.left_out import Left
from data_prep.pictures import Values, pack, unpack
from uda_jax.data import labels
from uda_jax.errors import UserError


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
        """The scenes of every split that is there, sorted by id; prints what was left out.

        Raises:
          UserError: something is missing; lists it.
        """
        found = self.locate(Path(root))
        left_out.tell(one for files in found.values() for one in files.left)
        return {split: pair(files) for split, files in found.items()}


def _read_label(path: Path, published: LabelMap) -> np.ndarray:
    """Ids int32 [H, W]; colours are read as the id that the set's tools paint so, classes before ignored ids."""
    found = label_map.read(path, published)
    if not found.colored:
        return found.values
    rows = sorted(labels.PAINTED[published.name], key=lambda row: -row.train_id)
    ids, unknown = lookup(found.values, {pack(row.color): row.id for row in rows}, labels.IGNORE)
    if unknown:
        some = ", ".join(str(unpack(color)) for color in unknown[:5])
        raise UserError(
            f"{path} is a coloured label picture with {len(unknown)} unknown colours, such as {some}: expected "
            "label ids, or the colours of Cityscapes. Unpack the archives of labels again."
        )
    return ids


def _to_train_ids(ids: np.ndarray, published: LabelMap) -> tuple[np.ndarray, list[int]]:
    return label_map.to_train_ids(Values(ids, False), published)


# The other archives of Cityscapes, and what its tools and other projects make of them.
CITYSCAPES_BESIDES = r"(left|right)Img(8|16)bit(_\w+)?|gt[A-Z]\w*|disparity\w*|camera\w*|vehicle\w*|timestamp\w*"
_LOOK_UP = "docs/data.md shows the tree that is expected; --raw names its root."


class Parts(NamedTuple):
    """The directories of one name, and what else of that name, or to nowhere, was left out."""

    places: list[Path]
    left: list[Left]


def _parts(root: Path, name: str) -> Parts:
    """`root`/name, or, where the archives were unpacked side by side, every `root`/*/name."""
    beside = [path for path in sorted(root.iterdir()) if path.name not in ("images", "labels")]
    seen, hidden = (
        [path for path in beside if not is_hidden(path.name)],
        [path for path in beside if is_hidden(path.name)],
    )
    left = [Left(left_out.HIDDEN, path / name) for path in hidden if (path / name).is_dir()]
    parts = [path / name for path in seen if (path / name).is_dir()]
    if is_folder(root / name):
        return Parts([root / name], left + [Left(left_out.UNUSED, path) for path in parts])
    links = [link for path in seen for link in (path, path / name) if link.is_symlink() and not link.exists()]
    left += [Left(left_out.NOWHERE, link) for link in links if may_be_folder(link)]
    if not parts:
        text = f"{root} has no directory {name!r}, nor have its subdirectories. {_LOOK_UP}"
        raise UserError("\n".join(filter(None, [text, left_out.say(left)])))
    return Parts(parts, left)


def _some(root: Path, files: dict[str, Files], left: Iterable[Left] = ()) -> dict[str, Files]:
    """The splits, if they have images, the first of them with what else was left out; raises UserError if none has."""
    found = {split: pictures for split, pictures in files.items() if pictures.images}
    left = [*left, *(one for split, pictures in files.items() if split not in found for one in pictures.left)]
    if not found:
        raise UserError("\n".join(filter(None, [f"no images found below {root}. {_LOOK_UP}", left_out.say(left)])))
    split, pictures = next(iter(found.items()))
    return found | {split: pictures._replace(left=(*left, *pictures.left))}


def _gta5(root: Path) -> dict[str, Files]:
    images, maps = _parts(root, "images"), _parts(root, "labels")
    found = by_id(*images.places, suffixes=IMAGE_SUFFIXES, nested=False)
    truth = by_id(*maps.places, suffixes=LABEL_SUFFIXES, nested=False)
    places, left = [*images.places, *maps.places], images.left + maps.left
    spoken = [*places, *(one.path for one in left)]
    for folder in sorted({root, *(place.parent for place in places)}):
        left = left + unknown(folder, "images|labels", spoken)
    return _some(root, {"train": files_of(found, truth)}, left)


def _synthia(root: Path) -> dict[str, Files]:
    left: list[Left] = []
    if is_folder(root / "RAND_CITYSCAPES"):
        left = unknown(root, "RAND_CITYSCAPES")
        root = root / "RAND_CITYSCAPES"
    missing = [name for name in ("RGB", "GT/LABELS") if not is_folder(root / name)]
    if missing:
        raise UserError(f"{root} has no {' and no '.join(missing)}. {_LOOK_UP}")
    found = by_id(root / "RGB", suffixes=IMAGE_SUFFIXES)
    truth = by_id(root / "GT" / "LABELS", suffixes=LABEL_SUFFIXES)
    left += unknown(root, "RGB|GT|Depth") + unknown(root / "GT", "LABELS|COLOR")
    return _some(root, {"train": files_of(found, truth)}, left)


def _cityscapes(root: Path) -> dict[str, Files]:
    base = root / "leftImg8bit"
    if not is_folder(base):
        raise UserError(f"{root} has no leftImg8bit (from leftImg8bit_trainvaltest.zip). {_LOOK_UP}")
    files, left = {}, _no_splits(base) + unknown(root, CITYSCAPES_BESIDES)
    if is_folder(root / "gtFine"):
        left += _no_splits(root / "gtFine")
    for split in ("train", "val", "test"):
        if not is_folder(base / split):
            lost = split != "test" and is_folder(root / "gtFine" / split)
            left += [Left(left_out.EMPTY, base / split)] if lost else []
            continue
        images = by_id(base / split, suffixes=IMAGE_SUFFIXES, ending="_leftImg8bit", nested=False)
        if not images.files:
            left += [Left(left_out.EMPTY, base / split), *images.left]
            continue
        files[split] = files_of(images, None if split == "test" else _gt_fine(root, split))
    return _some(root, files, left)


def _no_splits(base: Path) -> list[Left]:
    """What lies beside the splits of Cityscapes and might have been meant as one; "train_extra" is another archive."""
    strange = [path for path in sorted(base.iterdir()) if path.name not in ("train", "val", "test", "train_extra")]
    return [
        Left(left_out.HIDDEN if is_hidden(path.name) else left_out.UNUSED, path)
        for path in strange
        if path.is_dir() or path.suffix.lower() in PICTURES or (path.is_symlink() and may_be_folder(path))
    ]


def _gt_fine(root: Path, split: str) -> Found:
    directory = root / "gtFine" / split
    if not is_folder(directory):
        raise UserError(f"{root} has no gtFine/{split} (from gtFine_trainvaltest.zip). {_LOOK_UP}")
    others = r".*_gt(Fine|Coarse)_(color|(label|instance)(Train)?Ids|panoptic\w*|polygons)\.(png|json)"
    found = by_id(directory, suffixes=LABEL_SUFFIXES, ending="_gtFine_labelIds", nested=False, expected=others)
    if not found.files:
        text = f"{directory} has no *_gtFine_labelIds.png (other files do not do). {_LOOK_UP}"
        raise UserError("\n".join(filter(None, [text, left_out.say(found.left)])))
    return found


def _visda17(root: Path) -> dict[str, Files]:
    below = [root, root / "test", root / "data" / "test", root / "segmentation" / "data" / "test"]
    places = [(base, base / name) for base in below for name in ("raw_images", "images") if is_folder(base / name)]
    if not places:
        raise UserError(f"{root} has no directory raw_images or images (nor has test/ in it). {_LOOK_UP}")
    base, images = places[0]
    truth = by_id(base / "labels", suffixes=LABEL_SUFFIXES, nested=False) if is_folder(base / "labels") else None
    found = by_id(images, suffixes=IMAGE_SUFFIXES, nested=False)
    left = [Left(left_out.UNUSED, path) for _, path in places[1:]]
    left += unknown(base, "raw_images|images|labels", [path for _, path in places])
    return _some(root, {"test": files_of(found, truth)}, left)


def _raw_set(
    name: str, published: Mapping[str, int], locate: Callable[[Path], dict[str, Files]], table: str, **fields: Any
) -> RawSet:
    known = label_map.load(table)
    read_label, to_train_ids = partial(_read_label, published=known), partial(_to_train_ids, published=known)
    return RawSet(name, published, locate, read_label, to_train_ids, names=known.classes, **fields)


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
