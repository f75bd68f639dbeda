"""The 19 Cityscapes evaluation classes, the ids that data sets store for them, and colours to draw classes in.

Train ids are 0..18 and 255 means ignore. Names are the published ones of the VisDA-2017 table
(with "motorcycle" spelled out).
"""

import colorsys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IGNORE = 255


class Class(NamedTuple):
    train_id: int
    name: str
    color: tuple[int, int, int]  # RGB, as in Cityscapes pictures
    cityscapes_id: int  # the "labelId" of Cityscapes and GTA5 label images
    synthia_id: int  # the id in SYNTHIA-RAND-CITYSCAPES label images


CLASSES = (
    Class(0, "road", (128, 64, 128), 7, 3),
    Class(1, "sidewalk", (244, 35, 232), 8, 4),
    Class(2, "building", (70, 70, 70), 11, 2),
    Class(3, "wall", (102, 102, 156), 12, 21),
    Class(4, "fence", (190, 153, 153), 13, 5),
    Class(5, "pole", (153, 153, 153), 17, 7),
    Class(6, "light", (250, 170, 30), 19, 15),
    Class(7, "sign", (220, 220, 0), 20, 9),
    Class(8, "vegetation", (107, 142, 35), 21, 6),
    Class(9, "terrain", (152, 251, 152), 22, 16),
    Class(10, "sky", (70, 130, 180), 23, 1),
    Class(11, "person", (220, 20, 60), 24, 10),
    Class(12, "rider", (255, 0, 0), 25, 17),
    Class(13, "car", (0, 0, 142), 26, 8),
    Class(14, "truck", (0, 0, 70), 27, 18),
    Class(15, "bus", (0, 60, 100), 28, 19),
    Class(16, "train", (0, 80, 100), 31, 20),
    Class(17, "motorcycle", (0, 0, 230), 32, 12),
    Class(18, "bicycle", (119, 11, 32), 33, 11),
)
NAMES = tuple(c.name for c in CLASSES)
NUM_CLASSES = len(CLASSES)


class Label(NamedTuple):
    """One id that a data set stores. Ids without a class have the train id 255."""

    id: int
    train_id: int
    name: str
    color: tuple[int, int, int]  # RGB

    @property
    def ignore(self) -> bool:
        return self.train_id == IGNORE


def _void(id: int, name: str, color: tuple[int, int, int]) -> Label:
    return Label(id, IGNORE, name, color)


_VOID = (
    _void(0, "unlabeled", (0, 0, 0)),
    _void(1, "ego vehicle", (0, 0, 0)),
    _void(2, "rectification border", (0, 0, 0)),
    _void(3, "out of roi", (0, 0, 0)),
    _void(4, "static", (0, 0, 0)),
    _void(5, "dynamic", (111, 74, 0)),
    _void(6, "ground", (81, 0, 81)),
    _void(9, "parking", (250, 170, 160)),
    _void(10, "rail track", (230, 150, 140)),
    _void(14, "guard rail", (180, 165, 180)),
    _void(15, "bridge", (150, 100, 100)),
    _void(16, "tunnel", (150, 120, 90)),
    _void(18, "polegroup", (153, 153, 153)),
    _void(29, "caravan", (0, 0, 90)),
    _void(30, "trailer", (0, 0, 110)),
)
_PLATE, _PLATE_COLOR = "license plate", (0, 0, 142)
_CITYSCAPES = (*_VOID, *(Label(c.cityscapes_id, c.train_id, c.name, c.color) for c in CLASSES))

# Every id that may occur in the label images of each data set, by id.
CITYSCAPES = tuple(sorted((_void(-1, _PLATE, _PLATE_COLOR), *_CITYSCAPES, _void(IGNORE, _PLATE, _PLATE_COLOR))))
GTA5 = tuple(
    sorted(
        (
            *(row._replace(color=(20, 20, 20)) if row.name == "static" else row for row in _CITYSCAPES),
            _void(34, _PLATE, _PLATE_COLOR),
        )
    )
)
SYNTHIA = tuple(
    sorted(
        (
            *(Label(c.synthia_id, c.train_id, c.name, c.color) for c in CLASSES),
            _void(0, "void", (0, 0, 0)),
            _void(13, "parking slot", (250, 170, 160)),
            _void(14, "road work", (128, 64, 64)),
            _void(22, "lane marking", (102, 102, 156)),
        )
    )
)
TRAIN = (*(Label(c.train_id, c.train_id, c.name, c.color) for c in CLASSES), _void(IGNORE, "ignore", (0, 0, 0)))
TABLES = {"cityscapes": CITYSCAPES, "gta5": GTA5, "synthia": SYNTHIA, "train": TRAIN}

# The rows by whose colours label pictures of each set are read: Cityscapes and GTA5 paint one id in two colours, and
# train ids are painted in the colours of either.
PAINTED = {
    **TABLES,
    "cityscapes": (*CITYSCAPES, *GTA5),
    "gta5": (*CITYSCAPES, *GTA5),
    "train": (*TRAIN, *(_void(IGNORE, row.name, row.color) for row in (*CITYSCAPES, *GTA5) if row.ignore)),
}


def palette(names: Sequence[str] = NAMES) -> np.ndarray:
    """RGB colours by train id, uint8 [256, 3]; ids without a class (and 255) are black.

    The Cityscapes classes have their colours under any train id; other classes get hues a golden ratio apart.

    Args:
      names: the classes by train id.
    """
    known = {c.name: c.color for c in CLASSES}
    colors = np.zeros((256, 3), np.uint8)
    for train_id, name in enumerate(names):
        colors[train_id] = known.get(name) or _hue(train_id)
    return colors


def _hue(number: int) -> tuple[int, int, int]:
    rgb = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85 - 0.35 * (number % 2), 0.95 - 0.3 * (number % 3) / 2)
    return round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2])


def id_table(ids: str) -> np.ndarray:
    """Lookup from stored label ids to train ids, uint8 [256]; ids without a class map to 255.

    Args:
      ids: "cityscapes" (also VisDA-2017), "gta5", "synthia" or "train" (the identity).
    """
    table = np.full(256, IGNORE, np.uint8)
    for label in TABLES[ids]:
        if not label.ignore:
            table[label.id] = label.train_id
    return table
