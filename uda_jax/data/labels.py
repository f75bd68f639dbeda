"""The 19 Cityscapes evaluation classes and the label-id tables of the datasets that share them.

Train ids are 0..18 and 255 means ignore. Names are the published ones of the VisDA-2017 table
(with "motorcycle" spelled out).
"""

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


def palette() -> np.ndarray:
    """RGB colours by train id, uint8 [256, 3]; ids without a class (and 255) are black."""
    colors = np.zeros((256, 3), np.uint8)
    for c in CLASSES:
        colors[c.train_id] = c.color
    return colors


def id_table(ids: str) -> np.ndarray:
    """Lookup from stored label ids to train ids, uint8 [256]; ids without a class map to 255.

    Args:
      ids: "cityscapes" (also GTA5 and VisDA-2017), "synthia" or "train" (the identity).
    """
    table = np.full(256, IGNORE, np.uint8)
    for c in CLASSES:
        stored = {"cityscapes": c.cityscapes_id, "synthia": c.synthia_id, "train": c.train_id}[ids]
        table[stored] = c.train_id
    return table
