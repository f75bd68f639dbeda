"""Which record is read when: a pure function of (seed, domain, epoch, position), over whole sets.

A stream is an endless row of positions; any of them is looked up at once, so nothing is replayed on resume, and how
many processes share the row changes nothing in it.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from uda_jax.errors import UserError


class Order(NamedTuple):
    """The order in which the sets of a stream are read.

    An epoch is as many positions as the sets have records together, and each set has its weight's share of them. A set
    alone, or sets weighted by their sizes, are read once an epoch, in a new order each time; of others more or less
    than once, and what one epoch leaves of such a set is next epoch's first.

    Attributes:
      counts: records of every set.
      shares: positions of every set in an epoch; they sum up to that of `counts`.
      seed, domain: what sets streams apart: the run's seed, and "source", "target", ...
    """

    counts: tuple[int, ...]
    shares: tuple[int, ...]
    seed: int
    domain: str

    def records(self, positions: np.ndarray) -> np.ndarray:
        """The record at each position, int64 [n] -> int64 [n]: an index into the sets, one after the other."""
        epochs, inside = np.divmod(positions, sum(self.counts))
        if len(self.counts) > 1:
            inside = self._shuffle(-1, sum(self.counts), epochs, inside)
            bounds = np.cumsum(self.shares)
            which = np.searchsorted(bounds, inside, side="right")
            inside -= (bounds - self.shares)[which]
        else:
            which = np.zeros_like(inside)
        found, before = np.empty_like(positions), 0
        for i, (count, share) in enumerate(zip(self.counts, self.shares, strict=True)):
            of_set = which == i
            found[of_set] = before + self._shuffle(i, count, *np.divmod(epochs[of_set] * share + inside[of_set], count))
            before += count
        return found

    def _shuffle(self, which: int, count: int, epochs: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """The numbers `inside` 0 .. count - 1, each mapped by the order that its epoch has for a set (-1: for all)."""
        shuffled = np.empty_like(inside)
        for epoch in np.unique(epochs):
            then = epochs == epoch
            shuffled[then] = _permutation(self.seed, self.domain, which, int(epoch), count)[inside[then]]
        return shuffled


def make_order(counts: Sequence[int], weights: Sequence[float], seed: int, domain: str) -> Order:
    """The order of sets with `counts` records; `weights` () draws from each as often as it has records.

    Raises:
      UserError: a weight is so small that its set would never be drawn from.
    """
    parts = np.asarray(weights or counts, np.float64)
    bounds = np.rint(np.cumsum(parts) / parts.sum() * sum(counts)).astype(int)
    shares = np.diff(bounds, prepend=0)
    if not shares.all():
        raise UserError(f"weights {weights} of sets with {', '.join(map(str, counts))} images leave one out")
    return Order(tuple(counts), tuple(shares.tolist()), seed, domain)


@lru_cache(maxsize=16)
def _permutation(seed: int, domain: str, which: int, epoch: int, count: int) -> np.ndarray:
    """int64 [count]; of raw random bits, as NumPy does not promise to leave its own permutations as they are."""
    return np.argsort(random_bits(seed, domain, which + 1, epoch, count), kind="stable")


def random_bits(seed: int, domain: str, use: int, number: int, count: int) -> np.ndarray:
    """uint64 [count], a pure function of the arguments for good: NumPy promises to leave raw bits as they are."""
    entropy = [seed % 2**32, stable_hash(domain), use, number]
    return np.random.Philox(np.random.SeedSequence(entropy)).random_raw(count)


def stable_hash(name: str) -> int:
    """A number for a name, 0 .. 2**32 - 1, that is the same in every process."""
    return zlib.crc32(name.encode())
