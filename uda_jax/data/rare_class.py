"""Rare-class sampling of a labelled stream (Hoyer et al., "DAFormer", CVPR 2022, eq. 5-7).

At each position a class is drawn, the rarer the likelier, and then one of the images that show enough of it. As in
`order`, what is drawn where is a pure function of (seed, domain, position); there are no epochs. Crops that show the
class are sought when the image is augmented, see `augment.augment`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from uda_jax.data.order import random_bits, stable_hash
from uda_jax.errors import UserError

BLOCK = 1024  # positions whose random bits are made at once
STREAM = stable_hash("rare_class")  # sets these bits apart from those that shuffle the sets


class RareClassOrder(NamedTuple):
    """What is drawn at each position of a stream.

    Attributes:
      classes: int64 [K], train ids of those that occur.
      bounds: float64 [K], their probabilities summed up; the last is 1.
      images: int64 [M], records of the images of each class, one class after the other.
      counts: int64 [K], how many of `images` each class has, 1 or more.
      seed, domain: as of `order.Order`.
    """

    classes: np.ndarray
    bounds: np.ndarray
    images: np.ndarray
    counts: np.ndarray
    seed: int
    domain: str

    def classes_at(self, positions: np.ndarray) -> np.ndarray:
        """The class that is drawn at each position, int64 [n] -> int64 [n], train ids."""
        which, _ = self._draw(positions)
        return self.classes[which]

    def records(self, positions: np.ndarray) -> np.ndarray:
        """The record at each position, int64 [n] -> int64 [n]: an index into the sets, one after the other."""
        which, bits = self._draw(positions)
        inside = (bits % self.counts[which].astype(np.uint64)).astype(np.int64)
        return self.images[(np.cumsum(self.counts) - self.counts)[which] + inside]

    def _draw(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(which of `classes`, bits to choose an image by), int64 [n] and uint64 [n]."""
        blocks, inside = np.divmod(positions, BLOCK)
        bits = np.empty((*positions.shape, 2), np.uint64)
        for block in np.unique(blocks):
            then = blocks == block
            drawn = random_bits(self.seed, self.domain, STREAM, int(block), 2 * BLOCK)
            bits[then] = drawn.reshape(BLOCK, 2)[inside[then]]
        uniform = (bits[:, 0] >> np.uint64(11)) * 2.0**-53  # 0 <= u < 1, in all the bits that a float64 has
        return np.searchsorted(self.bounds, uniform, side="right"), bits[:, 1]


def class_probabilities(pixels: np.ndarray, temperature: float) -> np.ndarray:
    """Eq. 5 and 6: how likely each class is drawn, float64 [classes]; 0 for those that do not occur.

    softmax((1 - f) / temperature) over the classes that occur, f being their shares of the pixels that have a class.

    Args:
      pixels: int [classes], of all labels together.
    """
    shares = pixels / pixels.sum()
    logits = np.where(pixels > 0, (1 - shares) / temperature, -np.inf)
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def make_rare_class_order(
    pixels: np.ndarray, names: Sequence[str], temperature: float, least: int, seed: int, domain: str
) -> RareClassOrder:
    """The order of records whose labels hold int [N, classes] pixels of the classes `names`.

    Args:
      temperature: see `class_probabilities`.
      least: an image is drawn for a class if its label holds more than this many pixels of it.
    Raises:
      UserError: there is no such image for a class that occurs, or no class occurs.
    """
    total = pixels.sum(0)
    (classes,) = np.nonzero(total)
    if not len(classes):
        raise UserError("no pixel of its labels has a class, so there is none to draw images by")
    enough = pixels > least
    _check_enough(pixels, enough, names, least)
    bounds = np.cumsum(class_probabilities(total, temperature)[classes])
    _, images = np.nonzero(enough.T)
    return RareClassOrder(classes, bounds / bounds[-1], images, enough.sum(0)[classes], seed, domain)


def _check_enough(pixels: np.ndarray, enough: np.ndarray, names: Sequence[str], least: int) -> None:
    largest = pixels.max(0)
    (missed,) = np.nonzero((largest > 0) & ~enough.any(0))
    if len(missed):
        found = ", ".join(f"{names[i]} ({largest[i]} at most)" for i in missed.tolist())
        raise UserError(
            f"no image has more than rare_pixels={least} pixels of {found}, so none could be drawn for it; "
            f"lower this stream's rare_pixels below {largest[missed].min()}, or leave its sampling at 'uniform'"
        )
