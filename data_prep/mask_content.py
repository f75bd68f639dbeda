"""Label maps that lie among images, told by their content."""

from functools import cache
from typing import TypeVar

import numpy as np

from data_prep import palettes
from data_prep.pictures import pack
from uda_jax.data import labels

MOST_IDS = 40  # ids in use end at 34 (and 255); a picture with grey values up to here alone is all but black
LEAST = 3  # values or colours; fewer are drawings, or blank
LARGE = 0.8  # share of the pixels that equal their right neighbour
JUMPS = 0.3  # share of the other ones that differ by more than 1; dark photographs change little by little
STEP = 16  # pixels; a coarse look tells most photographs

T = TypeVar("T")


def masklike(image: np.ndarray) -> bool:
    """Whether an image is a label map: large areas of ids as grey or red, or of nothing but the colours of classes.

    Drawings, blank and dark pictures and thermal photographs are not: they have values above `MOST_IDS`, fewer than
    `LEAST` of them, or change smoothly.

    Args:
      image: RGB uint8 [H, W, 3].
    """
    return _few(image[::STEP, ::STEP]) and _few(image) and len(_packed_colors(image)) >= LEAST and _in_areas(image)


def among_photographs(found: list[T], count: int) -> list[T]:
    """The mask-like ones of `count` images, if the others are something else; all of them may be meant."""
    return found if len(found) < count else []


def _few(image: np.ndarray) -> bool:
    red, others = image[..., :1], image[..., 1:]
    if (others == red).all() or not others.any():  # ids as grey values, or in the first channel alone
        return bool(((red <= MOST_IDS) | (red == labels.IGNORE)).all())
    found = _packed_colors(image)
    return found <= _class_colors() or found <= _voc_colors()


def _in_areas(image: np.ndarray) -> bool:
    step = np.abs(np.diff(image.astype(np.int16), axis=1)).max(axis=-1)
    changes = step > 0
    return changes.mean() <= 1 - LARGE and (step > 1).sum() >= JUMPS * changes.sum()


def _packed_colors(image: np.ndarray) -> set[int]:
    red, green, blue = np.moveaxis(image.astype(np.int32), -1, 0)
    return set(np.unique(red << 16 | green << 8 | blue).tolist())


@cache
def _voc_colors() -> frozenset[int]:
    """What labelling tools paint classes in, and the borders between them."""
    return frozenset(palettes.voc(index) for index in (*range(MOST_IDS), labels.IGNORE))


@cache
def _class_colors() -> frozenset[int]:
    return frozenset(pack(row.color) for rows in labels.PAINTED.values() for row in rows)
